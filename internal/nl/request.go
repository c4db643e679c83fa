package nl

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// Request asks the kernel for one operation, and holds the result after
// Conn.Exec.
type Request struct {
	Type  uint16
	Flags uint16 // besides NLM_F_REQUEST, NLM_F_ACK and NLM_F_DUMP
	Body  []byte // the protocol's fixed header, if it has one, then attributes
	// Op names the operation and its object for errors: "add route
	// 10.244.2.0/24".
	Op string
	// Describe, if set, replaces Op. It is called only for an error, so requests
	// that come by the thousand need no text in advance.
	Describe func(*Request) string

	tolerated []unix.Errno
	done      bool
	err       error
}

// errNotSent is the result of a request before Conn.Exec.
var errNotSent = errors.New("the request was not sent")

// Tolerate makes the request succeed if the kernel refuses it with one of these
// errors: for example, because the object to add is there already.
func (r *Request) Tolerate(errnos ...unix.Errno) *Request {
	r.tolerated = append(r.tolerated, errnos...)
	return r
}

// Done reports whether the kernel carried the operation out. It is false for
// an error that the request tolerates.
func (r *Request) Done() bool { return r.done }

// Err is the error of the operation: nil if the kernel carried it out or
// refused it with a tolerated error, an *Error if the kernel refused it, else
// the reason why there was no answer.
func (r *Request) Err() error {
	if !r.done && r.err == nil {
		return errNotSent
	}
	if r.done || r.isTolerated() {
		return nil
	}
	return r.err
}

func (r *Request) isTolerated() bool {
	var refused *Error
	return len(r.tolerated) > 0 && errors.As(r.err, &refused) && slices.Contains(r.tolerated, refused.Errno)
}

// refusal is the *Error that an answer reports, nil if it reports success.
func (r *Request) refusal(m Message) error {
	errno := m.Errno()
	if errno == 0 {
		return nil
	}
	return &Error{Op: r.name(), Errno: errno, Hint: m.Hint()}
}

func (r *Request) name() string {
	if r.Describe != nil {
		return r.Describe(r)
	}
	return r.Op
}

func (r *Request) message(flags uint16) Message {
	return Message{Type: r.Type, Flags: r.Flags | flags, Body: r.Body}
}
