package nl

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLost says that notifications are missing: more came than the socket's
// buffer holds, or one was malformed.
var ErrLost = errors.New("notifications of the kernel were lost")

// Subscription receives the notifications of netlink groups in one network
// namespace.
//
// Most operations put their notifications into the queues of all subscribers
// before the kernel answers them. So once an operation is answered, Drain finds
// its notifications. The exceptions are changes that the kernel makes later,
// such as those of IPv6 addresses and carriers.
type Subscription struct {
	name string // of the protocol, for errors
	file *os.File
	conn syscall.RawConn
	in   []byte
	// closed lets Wait recognise that Close ended it, because the poller's error
	// for a closed file is not exported.
	closed atomic.Bool
}

// noticeBuffer is how many bytes of notifications may wait. The kernel charges
// about 900 bytes for each notification, so 4,000 fit. It takes memory only as
// it is used.
const noticeBuffer = 4 << 20

// Subscribe joins groups (such as RTNLGRP_LINK of NETLINK_ROUTE) in the network
// namespace of the calling thread.
func Subscribe(protocol int, groups ...int) (*Subscription, error) {
	name := protocolName(protocol)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open a %s socket: %w", name, err)
	}
	// The socket is non-blocking, so Go's poller serves it.
	file := os.NewFile(uintptr(fd), name+" notifications")
	// Without CAP_NET_ADMIN in the initial user namespace the host's limit stays
	// in force. Notifications that don't fit are ErrLost.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, noticeBuffer)
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range groups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
	}
	conn, rawErr := file.SyscallConn()
	if err = errors.Join(err, rawErr); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("subscribe to %s notifications: %w", name, err)
	}
	return &Subscription{name: name, file: file, conn: conn, in: make([]byte, receiveSize)}, nil
}

// Close closes the socket. A Wait returns with os.ErrClosed.
func (s *Subscription) Close() error {
	s.closed.Store(true)
	return s.file.Close()
}

// Interrupt makes Wait return with os.ErrDeadlineExceeded, now and later, until
// Resume.
func (s *Subscription) Interrupt() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }

// Resume ends what Interrupt began.
func (s *Subscription) Resume() { _ = s.file.SetReadDeadline(time.Time{}) }

// Wait returns when Drain has something to read, unless another goroutine
// drains first. It reads nothing itself.
func (s *Subscription) Wait() error {
	var failed error
	err := s.conn.Read(func(fd uintptr) bool {
		var ready int
		ready, failed = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if errors.Is(failed, unix.EINTR) {
			failed = nil
			return true
		}
		return ready > 0 || failed != nil
	})
	if err != nil && s.closed.Load() {
		err = os.ErrClosed
	}
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("wait for %s notifications: %w", s.name, err)
	}
	return nil
}

// Drain calls each for all notifications that have come, and doesn't wait for
// more. A Body is valid only during the call. The error is ErrLost if some are
// missing. Neither lost notifications nor an error of each stops Drain: it reads
// everything first and then returns the first error.
func (s *Subscription) Drain(each func(Message) error) error {
	var drained error
	err := s.conn.Control(func(fd uintptr) { drained = s.drain(int(fd), each) })
	return errors.Join(err, drained)
}

func (s *Subscription) drain(fd int, each func(Message) error) error {
	var failed error
	for {
		size, _, flags, from, err := unix.Recvmsg(fd, s.in, nil, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return failed
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			err = ErrLost
		case err != nil:
			return fmt.Errorf("read %s notifications: %w", s.name, err)
		case !fromKernel(from):
			continue
		case flags&unix.MSG_TRUNC != 0:
			err = ErrLost
		default:
			err = eachMessage(s.in[:size], each)
		}
		if failed == nil {
			failed = err
		}
	}
}

// fromKernel is false for messages of other programs: those with CAP_NET_ADMIN
// can send to a group.
func fromKernel(from unix.Sockaddr) bool {
	sender, ok := from.(*unix.SockaddrNetlink)
	return ok && sender.Pid == 0
}

// eachMessage returns the first error of each, or ErrLost if a message is
// malformed.
func eachMessage(in []byte, each func(Message) error) error {
	var failed error
	for len(in) > 0 {
		m, rest, ok := next(in)
		if !ok {
			return errors.Join(failed, ErrLost)
		}
		if err := each(m); failed == nil {
			failed = err
		}
		in = rest
	}
	return failed
}
