package rtnl

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLost says that notifications are missing, since more came than there was
// room for, or that one could not be read.
var ErrLost = errors.New("notifications of the kernel were lost")

// Notice is one notification. What it refers to is valid until the next one.
type Notice struct {
	// Link is the interface that a notification about a link or about one of
	// its addresses names; Route and Neighbor are what the others are about.
	Link     int
	Route    *RouteEntry
	Neighbor *NeighborEntry
	// Gone says that the object was deleted.
	Gone bool
	// Replaces says that a route took the place of another.
	Replaces bool
}

// Notices receives what the kernel tells of links, addresses, routes,
// neighbours and forwarding entries in one network namespace.
//
// The kernel puts what an operation changed into the queues of all sockets
// before it answers the operation. So after an answer Drain gives everything
// that the operation did to routes, neighbours and forwarding entries. Of new
// IPv6 addresses, and of links that go up, it tells a moment later, too.
type Notices struct {
	file *os.File
	conn syscall.RawConn
	in   []byte
}

// noticeBuffer is how much may wait, as the kernel counts it: some 900 bytes for
// each, so 4,000 of them. It is taken only as far as it is used.
const noticeBuffer = 4 << 20

// Subscribe works in the network namespace of the calling thread.
func Subscribe() (*Notices, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	// Non-blocking, so that the runtime's poller serves it.
	file := os.NewFile(uintptr(fd), "route netlink notifications")
	// Without the capability in the initial user namespace the host's limit
	// stays, and what doesn't fit is ErrLost.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, noticeBuffer)
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, group := range []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	} {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group))
	}
	conn, rawErr := file.SyscallConn()
	if err = errors.Join(err, rawErr); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("subscribe to route netlink notifications: %w", err)
	}
	return &Notices{file: file, conn: conn, in: make([]byte, receiveSize)}, nil
}

// Close ends a Wait, too.
func (n *Notices) Close() error { return n.file.Close() }

// Interrupt ends a Wait, now or later, until Resume.
func (n *Notices) Interrupt() { _ = n.file.SetReadDeadline(time.Unix(1, 0)) }

// Resume lets Wait wait again.
func (n *Notices) Resume() { _ = n.file.SetReadDeadline(time.Time{}) }

// Wait returns when there is something for Drain, which another goroutine may
// be faster to take. It takes nothing itself.
func (n *Notices) Wait() error {
	var failed error
	err := n.conn.Read(func(fd uintptr) bool {
		var ready int
		ready, failed = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if errors.Is(failed, unix.EINTR) {
			failed = nil
			return true
		}
		return ready > 0 || failed != nil
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("wait for route netlink notifications: %w", err)
	}
	return nil
}

// Drain calls each for all notifications that there are, and doesn't wait for
// more. ErrLost comes after all that could be read.
func (n *Notices) Drain(each func(Notice)) error {
	var drained error
	err := n.conn.Control(func(fd uintptr) { drained = n.drain(int(fd), each) })
	return errors.Join(err, drained)
}

func (n *Notices) drain(fd int, each func(Notice)) error {
	var lost error
	for {
		size, _, flags, from, err := unix.Recvmsg(fd, n.in, nil, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return lost
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			lost = ErrLost
		case err != nil:
			return fmt.Errorf("read route netlink notifications: %w", err)
		case !fromKernel(from):
		case flags&unix.MSG_TRUNC != 0 || !eachNotice(n.in[:size], each):
			lost = ErrLost
		}
	}
}

// fromKernel: other programs with CAP_NET_ADMIN can send to a group, too.
func fromKernel(from unix.Sockaddr) bool {
	sender, ok := from.(*unix.SockaddrNetlink)
	return ok && sender.Pid == 0
}

// eachNotice reports whether all of in could be read.
func eachNotice(in []byte, each func(Notice)) bool {
	for len(in) >= unix.NLMSG_HDRLEN {
		m, size := parseMessage(in)
		if size == 0 {
			return false
		}
		notice, ok := parseNotice(m)
		if !ok {
			return false
		}
		each(notice)
		in = in[min(align(size), len(in)):]
	}
	return len(in) == 0
}

// parseNotice gives an empty one for what the groups bring besides.
func parseNotice(m message) (n Notice, ok bool) {
	if len(m.payload) < headerOf(m.typ) {
		return n, false
	}
	switch m.typ {
	case unix.RTM_DELLINK, unix.RTM_DELADDR, unix.RTM_DELROUTE, unix.RTM_DELNEIGH:
		n.Gone = true
	}
	switch m.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
		n.Link = int(native.Uint32(m.payload[4:])) // in both headers
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r := parseRoute(m.payload)
		n.Route, n.Replaces = &r, m.flags&unix.NLM_F_REPLACE != 0
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		e := parseNeighbor(m.payload)
		n.Neighbor = &e
	}
	return n, true
}

// headerOf is the length of what attributes follow.
func headerOf(typ uint16) int {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return unix.SizeofIfInfomsg
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return unix.SizeofIfAddrmsg
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return unix.SizeofRtMsg
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return unix.SizeofNdMsg
	}
	return 0
}
