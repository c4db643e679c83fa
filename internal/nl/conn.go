package nl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// receiveSize holds the largest answer: a link with all its attributes, or
	// one part of a list, for which the kernel takes at most 32 KiB
	// (netlink_recvmsg in net/netlink/af_netlink.c).
	receiveSize = 32 << 10
	// chunk is how many requests Exec sends at a time. Each error takes about 800
	// bytes of the socket's receive buffer, which has 208 KiB.
	chunk = 128
	// dumpAttempts bounds how often Dump reads a list that keeps changing.
	dumpAttempts = 10
)

// ErrInterrupted says that a list changed each time while the kernel made it,
// so that entries may be missing or listed twice.
var ErrInterrupted = errors.New("the kernel's tables changed while they were listed")

// Conn is a netlink socket. It stays in the network namespace where it was
// opened. It is for one goroutine at a time.
type Conn struct {
	name string // of the protocol, for errors
	fd   int
	seq  uint32 // of the last message sent
	in   []byte
	out  []byte // for reuse
}

// Dial opens a socket for a netlink protocol, such as NETLINK_ROUTE, in the
// network namespace of the calling thread.
func Dial(protocol int) (*Conn, error) {
	name := protocolName(protocol)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open a %s socket: %w", name, err)
	}
	// Kernels that lack an option refuse it, and work without it: answers are
	// longer (CAP_ACK, since 4.3), have no explanation (EXT_ACK, since 4.12), and
	// lists are not filtered by the kernel (GET_STRICT_CHK, since 4.20).
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	if protocol == unix.NETLINK_ROUTE {
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	}
	return &Conn{name: name, fd: fd, in: make([]byte, receiveSize)}, nil
}

func protocolName(protocol int) string {
	switch protocol {
	case unix.NETLINK_ROUTE:
		return "route netlink"
	case unix.NETLINK_NETFILTER:
		return "netfilter netlink"
	}
	return fmt.Sprintf("netlink (protocol %d)", protocol)
}

// FD is the file descriptor of the socket, for ioctls. The caller must not close
// it.
func (c *Conn) FD() int { return c.fd }

// Close closes the socket. Whatever uses the Conn afterwards fails with
// unix.EBADF, and never writes to a file that got the same number.
func (c *Conn) Close() error {
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// RaiseBuffers sets how many bytes of unread messages the socket may hold, in
// each direction. The sizes are limits: the kernel takes memory only as it is
// used. Without CAP_NET_ADMIN in the initial user namespace the host's limits
// (net.core.wmem_max and rmem_max) stay in force.
func (c *Conn) RaiseBuffers(send, receive int) {
	for _, b := range []struct{ force, ask, size int }{
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, send},
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receive},
	} {
		if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, b.force, b.size) != nil {
			// A message that does not fit is an error of Send or Receive later.
			_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, b.ask, b.size)
		}
	}
}

// Send sends messages in one system call. It numbers them in order and returns
// the first number.
func (c *Conn) Send(messages ...Message) (first uint32, err error) {
	first = c.begin()
	for _, m := range messages {
		c.add(m)
	}
	return first, c.flush()
}

// begin starts a new system call and returns the number of its first message.
func (c *Conn) begin() uint32 {
	c.out = c.out[:0]
	return c.seq + 1
}

func (c *Conn) add(m Message) {
	c.seq++
	m.Seq = c.seq
	m.Flags |= unix.NLM_F_REQUEST
	c.out = m.append(c.out)
}

func (c *Conn) flush() error {
	if _, err := unix.Write(c.fd, c.out); err != nil {
		return fmt.Errorf("send to %s: %w", c.name, err)
	}
	return nil
}

// Receive makes one system call, which waits for messages, and calls each for
// every message received. A Body is valid only during the call. Late answers to
// an abandoned exchange may come first, so the caller must compare sequence
// numbers. If the socket's receive buffer was too small for all answers, the
// error is unix.ENOBUFS.
func (c *Conn) Receive(each func(Message)) error {
	// With MSG_TRUNC, n is the packet's full length even if the buffer is shorter.
	n, _, err := unix.Recvfrom(c.fd, c.in, unix.MSG_TRUNC)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("receive from %s: %w", c.name, err)
	}
	if n > len(c.in) {
		return fmt.Errorf("receive from %s: an answer of %d bytes does not fit into %d", c.name, n, len(c.in))
	}
	for in := c.in[:n]; len(in) > 0; {
		m, rest, ok := next(in)
		if !ok {
			return fmt.Errorf("receive from %s: malformed message among %d bytes", c.name, len(in))
		}
		each(m)
		in = rest
	}
	return nil
}

// Exec carries out the requests in order, in as few system calls as fit. The
// kernel goes on after a request that it refuses. Afterwards each request holds
// its own result. The error joins those of all requests, or says why the socket
// failed.
func (c *Conn) Exec(requests ...*Request) error {
	var errs []error
	for len(requests) > 0 {
		n := min(chunk, len(requests))
		if err := c.execChunk(requests[:n]); err != nil {
			for _, r := range requests {
				if !r.done && r.err == nil {
					r.err = err
				}
			}
			return err
		}
		for _, r := range requests[:n] {
			if err := r.Err(); err != nil {
				errs = append(errs, err)
			}
		}
		requests = requests[n:]
	}
	return errors.Join(errs...)
}

// execChunk asks for an acknowledgement of the last request only: the kernel
// reports errors unasked and works through the requests in order, so all other
// answers come before the last request's.
func (c *Conn) execChunk(requests []*Request) error {
	first, last := c.begin(), len(requests)-1
	for i, r := range requests {
		r.done, r.err = false, nil
		var flags uint16
		if i == last {
			flags = unix.NLM_F_ACK
		}
		c.add(r.message(flags))
	}
	if err := c.flush(); err != nil {
		return err
	}
	for complete := false; !complete; {
		err := c.Receive(func(m Message) {
			i := int(int32(m.Seq - first))
			if m.Type != unix.NLMSG_ERROR || i < 0 || i > last {
				return // a late answer to an abandoned exchange
			}
			requests[i].err = requests[i].refusal(m)
			complete = complete || i == last
		})
		if err != nil {
			return err
		}
	}
	for _, r := range requests {
		r.done = r.err == nil
	}
	return nil
}

// Get sends a request that the kernel answers with one message, and returns the
// answer. The caller may keep its Body. If the kernel refuses, the error is an
// *Error.
func (c *Conn) Get(r Request) (Message, error) {
	var got Message
	seq, err := c.Send(r.message(0))
	for complete := false; !complete && err == nil; {
		var refused error
		err = c.Receive(func(m Message) {
			if m.Seq != seq || complete {
				return
			}
			complete = true
			refused = r.refusal(m)
			m.Body = append([]byte(nil), m.Body...)
			got = m
		})
		err = errors.Join(err, refused)
	}
	if err != nil {
		return Message{}, err
	}
	return got, nil
}

// Dump reads a list and calls each for every entry, up to the first error that
// each returns. The caller may keep the Bodies. If the list changes while the
// kernel makes it, Dump reads the list again before it calls each. After
// dumpAttempts changed lists the error is ErrInterrupted. If the kernel refuses,
// the error is an *Error.
func (c *Conn) Dump(r Request, each func(Message) error) error {
	var list []byte
	err := ErrInterrupted
	for n := 0; n < dumpAttempts && errors.Is(err, ErrInterrupted); n++ {
		list, err = c.dump(&r, list[:0])
	}
	if errors.Is(err, ErrInterrupted) {
		return fmt.Errorf("%s: %w", r.name(), err)
	}
	for len(list) > 0 && err == nil {
		var m Message
		m, list, _ = next(list)
		err = each(m)
	}
	return err
}

// dump appends the messages of a list to a buffer.
func (c *Conn) dump(r *Request, list []byte) ([]byte, error) {
	seq, err := c.Send(r.message(unix.NLM_F_DUMP))
	interrupted := false
	for complete := false; !complete && err == nil; {
		var refused error
		err = c.Receive(func(m Message) {
			if m.Seq != seq {
				return
			}
			interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
			if m.IsAnswer() {
				complete, refused = true, r.refusal(m)
				return
			}
			list = m.append(list)
		})
		err = errors.Join(err, refused)
	}
	if err == nil && interrupted {
		err = ErrInterrupted
	}
	return list, err
}
