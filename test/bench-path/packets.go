package main

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// payload of a small packet, in bytes.
	payload = 64
	// burst is how many packets a system call takes: the calls are a few hundredths
	// of the time then.
	burst = 64
	// buffers of the receiver, in bytes: some milliseconds of packets.
	buffers = 8 << 20
)

// packets sends small datagrams as fast as it can, from one socket, and counts in
// thousands a second those that the receiver gets.
func packets(p path, d time.Duration) ([]float64, error) {
	server, at, err := serve(p, unix.SOCK_DGRAM)
	if err != nil {
		return nil, err
	}
	defer unix.Close(server)
	if err := unix.SetsockoptInt(server, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffers); err != nil {
		return nil, fmt.Errorf("enlarge the receiver's buffers: %w", err)
	}
	var c crew
	var received atomic.Uint64
	c.start(p.server.Do, func() error { return takeIn(server, &c.stop, &received) })
	c.start(p.client.Do, func() error {
		fd, err := dial(unix.SOCK_DGRAM, p.addr, at)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return flood(fd, &c.stop)
	})
	arrived := during(d, received.Load)
	if err := c.end(server); err != nil {
		return nil, err
	}
	if arrived.n == 0 {
		return nil, fmt.Errorf("no packet arrived at %s in %s", p.addr, arrived.took)
	}
	return []float64{arrived.perSecond() / 1000}, nil
}

// message is struct mmsghdr of linux/socket.h.
type message struct {
	header unix.Msghdr
	length uint32
}

// messages are room for a burst.
func messages() []message {
	ms := make([]message, burst)
	for i := range ms {
		vector := &unix.Iovec{Base: &make([]byte, payload)[0]}
		vector.SetLen(payload)
		ms[i].header.Iov = vector
		ms[i].header.SetIovlen(1)
	}
	return ms
}

// transfer is sendmmsg(2) or recvmmsg(2). It returns how many packets were taken.
func transfer(call uintptr, fd int, ms []message, flags uintptr) (uint64, error) {
	n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&ms[0])), uintptr(len(ms)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return uint64(n), nil
}

func flood(fd int, stop *atomic.Bool) error {
	ms := messages()
	for !stop.Load() {
		_, err := transfer(unix.SYS_SENDMMSG, fd, ms, 0)
		if err != nil && !passing(err) {
			return fmt.Errorf("send packets: %w", err)
		}
	}
	return nil
}

func takeIn(fd int, stop *atomic.Bool, count *atomic.Uint64) error {
	ms := messages()
	for !stop.Load() {
		n, err := transfer(unix.SYS_RECVMMSG, fd, ms, unix.MSG_WAITFORONE)
		if err != nil && !passing(err) {
			return fmt.Errorf("receive packets: %w", err)
		}
		count.Add(n)
	}
	return nil
}

// passing tells whether the next call may succeed: a buffer was full, or a signal or
// the time limit ended the wait.
func passing(err error) bool {
	return timedOut(err) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR)
}
