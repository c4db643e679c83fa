package hostport

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// conn is a netfilter netlink socket. It stays in the network namespace of the
// thread that opened it, and is for one goroutine at a time.
type conn struct {
	fd  int
	seq uint32
	in  []byte
}

// receiveSize holds any answer: one part of a dump is no longer than the buffer
// it is first asked for with, and at least 8 KiB.
const receiveSize = 16 << 10

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	// An error's answer is short with this, and else repeats the message.
	// Kernels before 4.3 just refuse it.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &conn{fd: fd, in: make([]byte, receiveSize)}, nil
}

func (c *conn) close() { _ = unix.Close(c.fd) }

const (
	// chunk is how many answers certainly fit into the socket's buffer: each
	// takes about 800 bytes of 208 KiB there.
	chunk = 64
	// Buffers for more. An element takes 60 to 140 bytes to send, so this is
	// enough for all ports that a host has, in both families. They are limits,
	// no memory is taken.
	largeSend    = 16 << 20
	largeReceive = 64 << 20
)

// prepare raises the buffers if that many elements need it: beyond the host's
// limits where that is allowed, in the initial user namespace, and elsewhere up
// to them.
func (c *conn) prepare(elements int) {
	if elements <= chunk {
		return
	}
	for _, b := range []struct{ force, ask, size int }{
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, largeSend},
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, largeReceive},
	} {
		if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, b.force, b.size) != nil {
			// What doesn't fit is an error later, which says what to do.
			_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, b.ask, b.size)
		}
	}
}

// refused is a message that the kernel did not accept.
type refused struct {
	index int // of the message, or whole
	errno unix.Errno
}

// whole stands for the transaction as such: it is older than the rules, the
// caller may not, or there is no nf_tables.
const whole = -1

func (r *refused) Error() string { return r.errno.Error() }

// Unwrap makes errors.Is(err, unix.ENOENT) work.
func (r *refused) Unwrap() error { return r.errno }

// anyGeneration makes a transaction independent of what happened before.
const anyGeneration = 0

// transact carries out all messages or none. The kernel refuses with ERESTART
// if its rules changed since the generation. The error is a *refused for the
// first message that was.
func (c *conn) transact(generation uint32, messages []message) error {
	var begin attrs
	if generation != anyGeneration {
		begin = begin.u32(unix.NFNL_BATCH_GENID, generation)
	}
	first := c.seq + 1
	out := bound(unix.NFNL_MSG_BATCH_BEGIN, begin).append(nil, first)
	for i, m := range messages {
		// The kernel answers in order, so nothing follows the last one's answer.
		if i == len(messages)-1 {
			m.flags |= unix.NLM_F_ACK
		}
		out = m.append(out, first+1+uint32(i))
	}
	c.seq = first + uint32(len(messages)) + 1
	out = bound(unix.NFNL_MSG_BATCH_END, nil).append(out, c.seq)
	if err := c.send(out); err != nil {
		return err
	}
	return c.verdict(first, len(messages))
}

// verdict reads the answers to a transaction whose beginning had the number
// first.
func (c *conn) verdict(first uint32, messages int) error {
	var bad *refused
	for done := false; !done; {
		err := c.receive(func(a answer) {
			i := int(int32(a.seq-first)) - 1
			if i < whole || i >= messages || a.typ != unix.NLMSG_ERROR {
				return // an answer to a call that was given up
			}
			if a.errno() != 0 && bad == nil {
				bad = &refused{i, a.errno()}
			}
			// After an error of the whole there may be no other answer.
			done = done || i == messages-1 || i == whole
		})
		if err != nil {
			return err
		}
	}
	if bad != nil {
		return bad
	}
	return nil
}

// ask sends requests that have one answer each, and returns these in order.
func (c *conn) ask(messages []message) ([]answer, error) {
	first := c.seq + 1
	var out []byte
	for _, m := range messages {
		c.seq++
		out = m.append(out, c.seq)
	}
	if err := c.send(out); err != nil {
		return nil, err
	}
	answers := make([]answer, len(messages))
	for missing := len(messages); missing > 0; {
		err := c.receive(func(a answer) {
			if i := int(int32(a.seq - first)); i >= 0 && i < len(messages) {
				a.payload = append([]byte(nil), a.payload...) // the buffer is used again
				answers[i] = a
				missing--
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// errInterrupted is for a listing that changed while it was made.
var errInterrupted = errors.New("it changed while it was listed")

// dump calls each for every object that a listing has.
func (c *conn) dump(m message, each func(attrs)) error {
	c.seq++
	m.flags |= unix.NLM_F_DUMP
	if err := c.send(m.append(nil, c.seq)); err != nil {
		return err
	}
	var failed error
	for done := false; !done; {
		err := c.receive(func(a answer) {
			if a.seq != c.seq {
				return
			}
			if a.flags&unix.NLM_F_DUMP_INTR != 0 {
				failed = errInterrupted
			}
			if a.typ != unix.NLMSG_ERROR && a.typ != unix.NLMSG_DONE {
				each(a.body())
				return
			}
			done = true
			if errno := a.errno(); errno != 0 {
				failed = errno
			}
		})
		if err != nil {
			return err
		}
	}
	return failed
}

func (c *conn) send(b []byte) error {
	err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err != nil {
		return fmt.Errorf("send to netfilter netlink: %w", err)
	}
	return nil
}

func (c *conn) receive(each func(answer)) error {
	n, _, err := unix.Recvfrom(c.fd, c.in, 0)
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("receive from netfilter netlink: %w", err)
	}
	for in := c.in[:n]; len(in) >= unix.NLMSG_HDRLEN; {
		size := int(native.Uint32(in))
		if size < unix.NLMSG_HDRLEN || size > len(in) {
			return fmt.Errorf("receive from netfilter netlink: a message of %d bytes is cut short", size)
		}
		each(answer{
			typ: native.Uint16(in[4:]), flags: native.Uint16(in[6:]), seq: native.Uint32(in[8:]),
			payload: in[unix.NLMSG_HDRLEN:size],
		})
		in = in[min(align(size), len(in)):]
	}
	return nil
}

// answer is a message from the kernel.
type answer struct {
	typ, flags uint16
	seq        uint32
	payload    []byte
}

// errno is the error that an answer carries, 0 if it is none.
func (a answer) errno() unix.Errno {
	const code = 4
	if (a.typ != unix.NLMSG_ERROR && a.typ != unix.NLMSG_DONE) || len(a.payload) < code {
		return 0
	}
	return unix.Errno(-int32(native.Uint32(a.payload)))
}

// body are the attributes of an object.
func (a answer) body() attrs {
	const head = 4
	if a.typ == unix.NLMSG_ERROR || len(a.payload) < head {
		return nil
	}
	return a.payload[head:]
}
