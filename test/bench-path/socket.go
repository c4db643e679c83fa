package main

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Sockets here are blocking and used by system calls: Go's network poller would add
// its own time to each round trip.

// patience is how long a call on a socket waits. A path that is broken takes that
// much; nothing else does, on a busy machine either.
const patience = 2 * time.Second

// openSocket makes a socket of a type, SOCK_STREAM or SOCK_DGRAM, in the namespace
// of the calling thread.
func openSocket(kind int, addr netip.Addr) (int, error) {
	domain := unix.AF_INET
	if addr.Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return -1, errors.Join(err, unix.Close(fd))
		}
	}
	return fd, nil
}

// listen opens a socket on any port of an address and returns where it is.
func listen(kind int, addr netip.Addr) (int, unix.Sockaddr, error) {
	fd, err := openSocket(kind, addr)
	if err != nil {
		return -1, nil, err
	}
	err = unix.Bind(fd, sockaddr(addr))
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, maxStreams)
	}
	var at unix.Sockaddr
	if err == nil {
		at, err = unix.Getsockname(fd)
	}
	if err != nil {
		return -1, nil, errors.Join(err, unix.Close(fd))
	}
	return fd, at, nil
}

// sockaddr is any free port of an address.
func sockaddr(addr netip.Addr) unix.Sockaddr {
	if addr.Is4() {
		return &unix.SockaddrInet4{Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Addr: addr.As16()}
}

// dial connects to a socket that listens, or sends to one of UDP.
func dial(kind int, addr netip.Addr, to unix.Sockaddr) (int, error) {
	fd, err := openSocket(kind, addr)
	if err != nil {
		return -1, err
	}
	if err := again(func() error { return unix.Connect(fd, to) }); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// again repeats a call that a signal of Go's runtime interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func read(fd int, buf []byte) (n int, err error) {
	err = again(func() error { n, err = unix.Read(fd, buf); return err })
	return max(n, 0), err
}

func write(fd int, buf []byte) error {
	return again(func() error { _, err := unix.Write(fd, buf); return err })
}

// accept takes the next connection. It waits until stop.
func accept(fd int, stop *atomic.Bool) (int, error) {
	for {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if !timedOut(err) && !errors.Is(err, unix.EINTR) || stop.Load() {
			return conn, err
		}
	}
}

// timedOut tells whether a call gave up after patience.
func timedOut(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINPROGRESS) }
