package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// kind is a kind of entry in the kernel.
type kind uint8

const (
	route    kind = iota // by destination
	neighbor             // by address
	forward              // of the FDB, by the host that it leads to
)

func (k kind) String() string { return [...]string{"route to", "neighbour", "FDB entry to"}[k] }

// entry is one of the things that a peer needs, whoever made it: MAC addresses
// and devices are the programs' own choice.
type entry struct {
	kind kind
	what netip.Prefix
}

func (e entry) String() string { return fmt.Sprintf("%s %s", e.kind, e.what) }

// watcher sees by the kernel's notifications when entries are made. These come
// after the fact, so an entry is not seen before it works.
type watcher struct {
	socket *os.File

	mu      sync.Mutex
	missing map[entry]struct{}
	last    time.Time     // when the last of the missing was seen
	done    chan struct{} // closed when none is missing
	err     error         // why nothing can be seen any more
}

// buffer holds the notifications of 60,000 entries, 700 bytes each as the
// kernel counts, in case this program isn't on a CPU for a while.
const buffer = 64 << 20

// watch begins to watch a namespace.
func watch(ns *sandbox.Netns) (*watcher, error) {
	w := &watcher{}
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		w.socket = os.NewFile(uintptr(fd), "notifications")
		const groups = 1<<(unix.RTNLGRP_NEIGH-1) | 1<<(unix.RTNLGRP_IPV4_ROUTE-1)
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
			unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}),
		)
	})
	if err != nil {
		return nil, fmt.Errorf("watch the kernel of %s: %w", ns.Name(), err)
	}
	go w.read()
	return w, nil
}

func (w *watcher) close() { _ = w.socket.Close() }

func (w *watcher) read() {
	buf := make([]byte, 1<<18)
	for {
		n, err := w.socket.Read(buf)
		now := time.Now()
		w.mu.Lock()
		if err != nil {
			w.err = fmt.Errorf("read notifications of the kernel: %w", err)
			w.finish()
			w.mu.Unlock()
			return
		}
		eachEntry(buf[:n], func(e entry) { w.see(e, now) })
		w.mu.Unlock()
	}
}

func (w *watcher) see(e entry, now time.Time) {
	if _, ok := w.missing[e]; !ok {
		return
	}
	delete(w.missing, e)
	if len(w.missing) == 0 {
		w.last = now
		w.finish()
	}
}

func (w *watcher) finish() {
	if w.done != nil {
		close(w.done)
		w.done = nil
	}
}

// expect says what await is to wait for. What was there before doesn't count.
func (w *watcher) expect(entries []entry) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.missing = make(map[entry]struct{}, len(entries))
	for _, e := range entries {
		w.missing[e] = struct{}{}
	}
	done := make(chan struct{})
	w.done = done
	return done
}

// await returns when the last expected entry was made.
func (w *watcher) await(ctx context.Context, done <-chan struct{}) (time.Time, error) {
	select {
	case <-done:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return time.Time{}, w.err
	}
	for e := range w.missing {
		return time.Time{}, fmt.Errorf("%d entries are not made, one is the %s: %w", len(w.missing), e, context.Cause(ctx))
	}
	return w.last, nil
}

// eachEntry finds new entries in notifications.
func eachEntry(in []byte, found func(entry)) {
	for len(in) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(in))
		if size < unix.NLMSG_HDRLEN || size > len(in) {
			return
		}
		if e, ok := parse(binary.NativeEndian.Uint16(in[4:]), in[unix.NLMSG_HDRLEN:size]); ok {
			found(e)
		}
		in = in[min(nl.Align(size), len(in)):]
	}
}

func parse(typ uint16, payload []byte) (entry, bool) {
	switch {
	case typ == unix.RTM_NEWROUTE && len(payload) >= unix.SizeofRtMsg:
		dst := nl.Attrs(payload[unix.SizeofRtMsg:]).Get(unix.RTA_DST).Addr()
		return entry{route, netip.PrefixFrom(dst, int(payload[1]))}, dst.IsValid()
	case typ == unix.RTM_NEWNEIGH && len(payload) >= unix.SizeofNdMsg:
		k := neighbor
		if payload[0] == unix.AF_BRIDGE {
			k = forward
		}
		dst := nl.Attrs(payload[unix.SizeofNdMsg:]).Get(unix.NDA_DST).Addr()
		return entry{k, host(dst)}, dst.IsValid()
	}
	return entry{}, false
}
