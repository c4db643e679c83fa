package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// ServeSCTP starts a mirror in ns, by SCTP.
func ServeSCTP(ns *sandbox.Netns, at netip.AddrPort) (*Mirror, error) {
	listener, err := open(ns, func() (net.Listener, error) { return listen(unix.IPPROTO_SCTP, at) })
	if err != nil {
		return nil, fmt.Errorf("serve SCTP on %s in %s (kernel module sctp): %w", at, ns.Name(), err)
	}
	return &Mirror{server: serve(listener, func() { mirror(listener) }), Addr: at}, nil
}

// SCTP connects from ns to a mirror by SCTP.
func SCTP(ctx context.Context, ns *sandbox.Netns, dst netip.AddrPort) (Seen, error) {
	start := time.Now()
	conn, err := open(ns, func() (net.Conn, error) { return dial(unix.IPPROTO_SCTP, dst, deadline(ctx)) })
	if err != nil {
		return Seen{}, fmt.Errorf("SCTP from %s to %s: %w", ns.Name(), dst, err)
	}
	defer conn.Close()
	seen, err := look(ctx, conn, dst.Addr(), time.Since(start))
	if err != nil {
		return Seen{}, fmt.Errorf("SCTP from %s to %s: %w", ns.Name(), dst, err)
	}
	return seen, nil
}

// Package net knows no SCTP. But sockets of its one-to-one style (RFC 6458,
// section 4) are used as TCP's are, so that net serves them once they are made.

// listen listens on an address by a protocol of streams.
func listen(protocol int, at netip.AddrPort) (net.Listener, error) {
	fd, err := bound(protocol, at)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), at.String())
	defer file.Close() // net has a copy then
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	return net.FileListener(file)
}

// dial connects to an address by a protocol of streams.
func dial(protocol int, dst netip.AddrPort, until time.Time) (net.Conn, error) {
	source, err := sourceFor(dst)
	if err != nil {
		return nil, err
	}
	fd, err := bound(protocol, netip.AddrPortFrom(source, 0))
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), dst.String())
	defer file.Close()
	if err := connect(fd, dst, until); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(file)
}

// sourceFor is the address from which packets go to dst. SCTP tells its peer
// all addresses of a socket that is bound to none, pods' gateways among them.
func sourceFor(dst netip.AddrPort) (netip.Addr, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst)) // sends nothing
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return local.Addr(), err
}

// bound makes a socket that has an address.
func bound(protocol int, at netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return 0, errors.Join(os.NewSyscallError("bind", err), unix.Close(fd))
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// connect waits until a socket is connected, or until it is too late.
func connect(fd int, dst netip.AddrPort, until time.Time) error {
	err := unix.Connect(fd, sockaddr(dst))
	for errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) {
		left := time.Until(until)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		var ready int
		ready, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left.Milliseconds())+1)
		if err == nil && ready == 0 {
			err = unix.EINPROGRESS
		}
	}
	if err != nil {
		return err
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}
