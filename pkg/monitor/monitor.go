package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Change says what a notification may concern.
type Change uint8

const (
	// Network is the tunnel, the bridge, the underlay, their routes, addresses
	// and switches, and the firewall's rules.
	Network Change = 1 << iota
	// Pods are pods' ports on the bridge and on the host. They come and go all
	// the time, so most of these changes are the plugin's own.
	Pods
)

// Watch calls changed when something may be different in the network namespace
// of the calling thread, until ctx ends: links, addresses, routes, forwarding.
// It leaves out routes of the protocols that own is true for: who makes them
// watches them himself, and knows which changes are his. It also calls changed
// as soon as it watches, since nobody saw what changed before.
func Watch(ctx context.Context, own func(protocol uint8) bool, changed func(Change)) error {
	return follow(ctx, subscription{
		name: "route", protocol: unix.NETLINK_ROUTE, groups: routeGroups,
		concerns: func(typ uint16, payload []byte) Change { return routeConcerns(typ, payload, own) },
	}, changed)
}

// subscription is a kind of notifications.
type subscription struct {
	name     string // of the netlink family, for messages
	protocol int
	groups   []uint
	concerns func(typ uint16, payload []byte) Change
}

func follow(ctx context.Context, s subscription, changed func(Change)) error {
	socket, err := s.open()
	if err != nil {
		return err
	}
	// Closing is what ends the reading.
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer stop()
	changed(Network | Pods)
	buf := make([]byte, 1<<16)
	for {
		n, err := socket.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changed(Network | Pods) // some were lost, which says enough
		case err != nil:
			return fmt.Errorf("read %s netlink notifications: %w", s.name, err)
		default:
			if c := s.all(buf[:n]); c != 0 {
				changed(c)
			}
		}
	}
}

func (s subscription) open() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, s.protocol)
	if err != nil {
		return nil, fmt.Errorf("open a %s netlink socket: %w", s.name, err)
	}
	// Non-blocking, so that the runtime's poller serves it.
	socket := os.NewFile(uintptr(fd), s.name+" netlink notifications")
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range s.groups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g)))
	}
	if err != nil {
		_ = socket.Close()
		return nil, fmt.Errorf("subscribe to %s netlink notifications: %w", s.name, err)
	}
	return socket, nil
}

// all joins what the messages concern.
func (s subscription) all(in []byte) Change {
	var c Change
	for len(in) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(in))
		if size < unix.NLMSG_HDRLEN || size > len(in) {
			return Network | Pods // it can't be understood: rather look
		}
		c |= s.concerns(binary.NativeEndian.Uint16(in[4:]), in[unix.NLMSG_HDRLEN:size])
		in = in[min(aligned(size), len(in)):]
	}
	return c
}

// attribute finds an attribute (struct rtattr) after a header. The library's
// parser panics on what the kernel would never send.
func attribute(payload []byte, header int, typ uint16) ([]byte, bool) {
	attrs := payload[min(header, len(payload)):]
	for len(attrs) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < unix.SizeofRtAttr || size > len(attrs) {
			break
		}
		if binary.NativeEndian.Uint16(attrs[2:]) == typ {
			return attrs[unix.SizeofRtAttr:size], true
		}
		attrs = attrs[min(aligned(size), len(attrs)):]
	}
	return nil, false
}

func aligned(size int) int { return (size + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
