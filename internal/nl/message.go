package nl

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Message is a netlink message (struct nlmsghdr and what follows it).
type Message struct {
	Type  uint16
	Flags uint16 // NLM_F_*; Send adds NLM_F_REQUEST
	Seq   uint32 // Send sets it
	Body  []byte // the protocol's fixed header, if it has one, then attributes
}

// Attrs returns the attributes after a fixed header, whose length in bytes the
// caller gives. A shorter message has none.
func (m Message) Attrs(header int) Attrs {
	return Attrs(m.Body[min(header, len(m.Body)):])
}

// append adds the message to a buffer.
func (m Message) append(b []byte) []byte {
	b = native.AppendUint32(b, uint32(unix.NLMSG_HDRLEN+len(m.Body)))
	b = native.AppendUint16(b, m.Type)
	b = native.AppendUint16(b, m.Flags)
	b = native.AppendUint32(b, m.Seq)
	b = native.AppendUint32(b, 0) // port 0: the kernel fills in the sender's
	return Attrs(append(b, m.Body...)).pad()
}

// next splits the first message from what was received. It reports false if
// the message is malformed.
func next(in []byte) (m Message, rest []byte, ok bool) {
	if len(in) < unix.NLMSG_HDRLEN {
		return Message{}, nil, false
	}
	size := int(native.Uint32(in))
	if size < unix.NLMSG_HDRLEN || size > len(in) {
		return Message{}, nil, false
	}
	m = Message{
		Type:  native.Uint16(in[4:]),
		Flags: native.Uint16(in[6:]),
		Seq:   native.Uint32(in[8:]),
		Body:  in[unix.NLMSG_HDRLEN:size:size],
	}
	return m, in[min(Align(size), len(in)):], true
}

// IsAnswer reports whether the message ends an exchange: it is an
// acknowledgement or an error (NLMSG_ERROR), or the end of a list (NLMSG_DONE).
func (m Message) IsAnswer() bool { return m.Type == unix.NLMSG_ERROR || m.Type == unix.NLMSG_DONE }

// errnoSize is the length of the error code at the start of an answer.
const errnoSize = 4

// Errno is the error that an answer carries; 0 for success, and for messages
// that are no answers.
func (m Message) Errno() unix.Errno {
	if !m.IsAnswer() || len(m.Body) < errnoSize {
		return 0
	}
	return unix.Errno(-int32(native.Uint32(m.Body)))
}

// Hint is the kernel's explanation of an error (NLMSGERR_ATTR_MSG), often empty.
// With NETLINK_CAP_ACK, an answer repeats only the header of the request, not
// its body.
func (m Message) Hint() string {
	if !m.IsAnswer() || m.Flags&unix.NLM_F_ACK_TLVS == 0 || len(m.Body) < errnoSize {
		return ""
	}
	rest := m.Body[errnoSize:]
	switch {
	case m.Type == unix.NLMSG_DONE:
	case len(rest) < unix.NLMSG_HDRLEN:
		return ""
	case m.Flags&unix.NLM_F_CAPPED != 0:
		rest = rest[unix.NLMSG_HDRLEN:]
	default:
		rest = rest[min(Align(int(native.Uint32(rest))), len(rest)):]
	}
	return Attrs(rest).Get(unix.NLMSGERR_ATTR_MSG).Text()
}

// Error is an operation that the kernel refused.
type Error struct {
	Op    string     // the operation with its object: "add route 10.244.2.0/24"
	Errno unix.Errno // the kernel's answer
	Hint  string     // the kernel's explanation (extended ack), often empty
}

func (e *Error) Error() string {
	if e.Hint != "" {
		return fmt.Sprintf("%s: %s (kernel: %s)", e.Op, e.Errno, e.Hint)
	}
	return fmt.Sprintf("%s: %s", e.Op, e.Errno)
}

// Unwrap makes errors.Is(err, unix.EEXIST) work.
func (e *Error) Unwrap() error { return e.Errno }
