package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/visit"
)

// Error is one operation the kernel refused.
type Error struct {
	Op    string     // what was asked, naming the object: "add route 10.244.2.0/24"
	Errno unix.Errno // the kernel's answer
	Hint  string     // the kernel's own words (NETLINK_EXT_ACK), often empty
}

func (e *Error) Error() string {
	if e.Hint != "" {
		return fmt.Sprintf("%s: %s (kernel: %s)", e.Op, e.Errno, e.Hint)
	}
	return fmt.Sprintf("%s: %s", e.Op, e.Errno)
}

// Unwrap makes errors.Is(err, unix.EEXIST) work.
func (e *Error) Unwrap() error { return e.Errno }

const (
	// receiveSize holds the largest answer: a link with all its attributes, or
	// one part of a dump, for which the kernel takes at most 32 KiB.
	receiveSize = 32 << 10
	// chunkMessages bounds how many errors may wait in the socket's receive
	// buffer: each takes about 800 bytes of the default 208 KiB.
	chunkMessages = 128
)

// Conn is a route netlink socket in one network namespace. It stays there even
// if the thread that opened it moves. It is for one goroutine at a time.
type Conn struct {
	fd  int
	seq uint32
	in  []byte
}

// Open opens a socket in the network namespace of the calling thread.
func Open() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	return newConn(fd), nil
}

func newConn(fd int) *Conn {
	// Both make answers better or smaller and neither is needed: kernels
	// before 4.12 and 4.3 just refuse them.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	// With this the kernel lists the objects of one interface instead of all
	// and leaves the choice to us. Kernels before 4.20 refuse it.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	return &Conn{fd: fd, in: make([]byte, receiveSize)}
}

// within opens a socket in a namespace that the calling thread enters and
// leaves for home.
func within(netns *os.File, home int, open func() (*Conn, error)) (*Conn, error) {
	runtime.LockOSThread()
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter network namespace %s: %w", netns.Name(), err)
	}
	conn, err := open()
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so the runtime ends it with its goroutine
		// and never runs anything else in the wrong namespace.
		return nil, errors.Join(err, fmt.Errorf("return to the own network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return conn, err
}

// OpenAt opens a socket in the network namespace that netns refers to. Only the
// calling thread, which has to be in the namespace of c, visits it, and only for
// the time of the socket call. It learns the way back from c, not from a file of
// /proc, whose first one costs a new process much.
func (c *Conn) OpenAt(netns *os.File) (*Conn, error) {
	return c.OpenAfter(netns, func() error { return nil })
}

// OpenAfter is OpenAt for callers who have something else to do in the
// namespace: the calling thread does it there first.
func (c *Conn) OpenAfter(netns *os.File, do func() error) (*Conn, error) {
	home, err := c.netns()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(home) }()
	return within(netns, home, func() (*Conn, error) {
		if err := do(); err != nil {
			return nil, err
		}
		return Open()
	})
}

// OpenWriting is OpenAt for callers who have files to be written in the
// namespace: that is done first. It is faster than OpenAfter, and tells less of
// what went wrong.
func (c *Conn) OpenWriting(netns *os.File, files []visit.File) (*Conn, error) {
	home, err := c.netns()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(home) }()
	fd, err := visit.Socket(int(netns.Fd()), home, files)
	if err != nil {
		return nil, err
	}
	return newConn(fd), nil
}

// InNetns tells whether netns is the namespace of c.
func (c *Conn) InNetns(netns *os.File) (bool, error) {
	home, err := c.netns()
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(home) }()
	var own, other unix.Stat_t
	if err := errors.Join(unix.Fstat(home, &own), unix.Fstat(int(netns.Fd()), &other)); err != nil {
		return false, fmt.Errorf("compare network namespace %s with the own one: %w", netns.Name(), err)
	}
	return own.Dev == other.Dev && own.Ino == other.Ino, nil
}

// netns opens the socket's network namespace (SIOCGSKNS, linux/sockios.h).
func (c *Conn) netns() (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(c.fd), unix.SIOCGSKNS, 0)
	if errno != 0 {
		return -1, fmt.Errorf("open the network namespace of a socket: %w", errno)
	}
	return int(fd), nil
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Exec carries out the operations of b in order. The kernel goes on after a
// refused one, and so does Exec: it returns one error (an *Error) for each
// operation, nil where it succeeded, or a single error if the socket failed.
func (c *Conn) Exec(b *Batch) ([]error, error) {
	failed := make([]error, len(b.msgs))
	for start := 0; start < len(b.msgs); start += chunkMessages {
		end := min(start+chunkMessages, len(b.msgs))
		if err := c.execChunk(b, start, end, failed); err != nil {
			return nil, err
		}
	}
	return failed, nil
}

// Run is Exec for callers for whom every operation must succeed: it returns
// all errors joined.
func (c *Conn) Run(b *Batch) error {
	failed, err := c.Exec(b)
	if err != nil {
		return err
	}
	return errors.Join(failed...)
}

// execChunk asks for an acknowledgement of the last message only: the kernel
// reports errors unasked, and works through the messages in order, so when the
// last one is answered no other answer can follow.
func (c *Conn) execChunk(b *Batch, start, end int, failed []error) error {
	first := c.seq + 1
	for i := start; i < end; i++ {
		c.seq++
		b.number(i, c.seq, i == end-1)
	}
	if err := unix.Sendto(c.fd, b.bytes(start, end), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to route netlink: %w", err)
	}
	for done := false; !done; {
		err := c.receive(func(m message) error {
			i := start + int(m.seq-first)
			if m.seq < first || i >= end || m.typ != unix.NLMSG_ERROR {
				return nil // an answer to a call that was given up
			}
			failed[i] = m.err(func() string { return b.op(i) })
			done = i == end-1
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// query sends one request and calls each for the payload of every answer: one,
// or all those of a dump. It returns an *Error if the kernel refused.
func (c *Conn) query(b *Batch, each func(typ uint16, payload []byte) error) error {
	c.seq++
	// Not acknowledged: the answer itself, an error or the end of the dump say
	// that it is done.
	b.number(0, c.seq, false)
	dump := native.Uint16(b.bytes(0, 1)[6:])&unix.NLM_F_DUMP == unix.NLM_F_DUMP
	if err := unix.Sendto(c.fd, b.bytes(0, 1), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to route netlink: %w", err)
	}
	interrupted := false
	for done := false; !done; {
		err := c.receive(func(m message) error {
			if m.seq != c.seq {
				return nil
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			if m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE {
				done = true
				return m.err(func() string { return b.op(0) })
			}
			done = !dump
			return each(m.typ, m.payload)
		})
		if err != nil {
			return err
		}
	}
	if interrupted {
		return fmt.Errorf("%s: %w", b.op(0), ErrInterrupted)
	}
	return nil
}

func (c *Conn) receive(each func(message) error) error {
	n, _, err := unix.Recvfrom(c.fd, c.in, 0)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("receive from route netlink: %w", err)
	}
	for in := c.in[:n]; len(in) >= unix.NLMSG_HDRLEN; {
		m, size := parseMessage(in)
		if size == 0 {
			return fmt.Errorf("receive from route netlink: a message of %d bytes is cut short", len(in))
		}
		if err := each(m); err != nil {
			return err
		}
		in = in[min(align(size), len(in)):]
	}
	return nil
}

type message struct {
	typ, flags uint16
	seq        uint32
	payload    []byte
}

func parseMessage(in []byte) (message, int) {
	size := int(native.Uint32(in))
	if size < unix.NLMSG_HDRLEN || size > len(in) {
		return message{}, 0
	}
	return message{
		typ:     native.Uint16(in[4:]),
		flags:   native.Uint16(in[6:]),
		seq:     native.Uint32(in[8:]),
		payload: in[unix.NLMSG_HDRLEN:size],
	}, size
}

// err is the error that an acknowledgement carries, nil if it reports success.
func (m message) err(op func() string) error {
	if len(m.payload) < 4 {
		return nil // the end of a dump may carry no status
	}
	code := int32(native.Uint32(m.payload))
	if code == 0 {
		return nil
	}
	return &Error{Op: op(), Errno: unix.Errno(-code), Hint: m.hint()}
}

// hint reads NLMSGERR_ATTR_MSG, which follows the error code and the header of
// the request (NETLINK_CAP_ACK leaves out the request's payload).
func (m message) hint() string {
	const acked = 4 + unix.NLMSG_HDRLEN
	if m.typ != unix.NLMSG_ERROR || m.flags&unix.NLM_F_ACK_TLVS == 0 || len(m.payload) < acked {
		return ""
	}
	attrs := m.payload[acked:]
	if m.flags&unix.NLM_F_CAPPED == 0 {
		attrs = m.payload[min(4+align(int(native.Uint32(m.payload[4:]))), len(m.payload)):]
	}
	return unix.ByteSliceToString(find(attrs, unix.NLMSGERR_ATTR_MSG))
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

var native = binary.NativeEndian
