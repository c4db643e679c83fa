package nl

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeKernel answers each system call of a Conn with prepared messages. It
// stands in for a kernel whose behaviour a test can't bring about.
func fakeKernel(t *testing.T, answer func(call int, request Message) [][]byte) *Conn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in := make([]byte, 1<<16)
		for call := 0; ; call++ {
			n, err := unix.Read(pair[1], in)
			if n <= 0 || err != nil {
				return
			}
			m, _, _ := next(in[:n])
			for _, packet := range answer(call, m) {
				if _, err := unix.Write(pair[1], packet); err != nil {
					return
				}
			}
		}
	}()
	conn := &Conn{name: "fake netlink", fd: pair[0], in: make([]byte, receiveSize)}
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
		_ = unix.Close(pair[1])
	})
	return conn
}

// entries encodes one packet with a message for each name.
func entries(seq uint32, flags uint16, names ...string) []byte {
	var out []byte
	for _, name := range names {
		out = Message{Type: unix.RTM_NEWLINK, Flags: flags, Seq: seq, Body: Attrs(nil).Text(1, name)}.append(out)
	}
	return out
}

func end(seq uint32, flags uint16) []byte {
	return Message{Type: unix.NLMSG_DONE, Flags: flags, Seq: seq, Body: make([]byte, errnoSize)}.append(nil)
}

// Dump calls each only for a list that was read without a change in between.
func TestDumpReadsAgain(t *testing.T) {
	for _, tt := range []struct {
		interrupted int
		want        string
		err         error
	}{
		{0, "[a b c]", nil},
		{1, "[a b c]", nil},
		{dumpAttempts - 1, "[a b c]", nil},
		{dumpAttempts, "[]", ErrInterrupted},
	} {
		t.Run(fmt.Sprint(tt.interrupted), func(t *testing.T) {
			conn := fakeKernel(t, func(call int, r Message) [][]byte {
				if call >= tt.interrupted {
					return [][]byte{entries(r.Seq, 0, "a", "b"), entries(r.Seq, 0, "c"), end(r.Seq, 0)}
				}
				if call%2 == 0 { // the kernel may say so with an entry or at the end
					return [][]byte{entries(r.Seq, 0, "a"), entries(r.Seq, unix.NLM_F_DUMP_INTR, "b"), end(r.Seq, 0)}
				}
				return [][]byte{entries(r.Seq, 0, "a", "b", "c"), end(r.Seq, unix.NLM_F_DUMP_INTR)}
			})
			var names []string
			err := conn.Dump(Request{Op: "list links"}, func(m Message) error {
				names = append(names, m.Attrs(0).Get(1).Text())
				return nil
			})
			if !errors.Is(err, tt.err) || fmt.Sprint(names) != tt.want {
				t.Errorf("got %v, %v", names, err)
			}
		})
	}
}

// Bodies of a list stay valid, also when the Conn is used again.
func TestDumpedBodiesStay(t *testing.T) {
	conn := fakeKernel(t, func(call int, r Message) [][]byte {
		return [][]byte{entries(r.Seq, 0, fmt.Sprint("a", call)), entries(r.Seq, 0, fmt.Sprint("b", call)), end(r.Seq, 0)}
	})
	var bodies []Value
	for range 2 {
		if err := conn.Dump(Request{}, func(m Message) error {
			bodies = append(bodies, m.Attrs(0).Get(1))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	var all []string
	for _, b := range bodies {
		all = append(all, b.Text())
	}
	if fmt.Sprint(all) != "[a0 b0 a1 b1]" {
		t.Errorf("got %v", all)
	}
}

// Answers to an exchange that somebody gave up are passed over.
func TestLateAnswers(t *testing.T) {
	late := func(r Message) []byte {
		return Message{Type: unix.NLMSG_ERROR, Seq: r.Seq - 1, Body: answerOf(unix.EPERM, nil, nil)}.append(nil)
	}
	conn := fakeKernel(t, func(_ int, r Message) [][]byte {
		if r.Flags&unix.NLM_F_ACK == 0 {
			return [][]byte{late(r), entries(r.Seq, 0, "a"), end(r.Seq, 0)}
		}
		return [][]byte{late(r), Message{Type: unix.NLMSG_ERROR, Seq: r.Seq, Body: answerOf(0, nil, nil)}.append(nil)}
	})
	if err := conn.Exec(&Request{}); err != nil {
		t.Error(err)
	}
	if _, err := conn.Get(Request{}); err != nil {
		t.Error(err)
	}
	if err := conn.Dump(Request{}, func(Message) error { return nil }); err != nil {
		t.Error(err)
	}
}

// Answers that can't be read are errors, and not taken for success.
func TestBadAnswers(t *testing.T) {
	for name, answer := range map[string][]byte{
		"cut short": {40, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0},
		"too small": {3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0},
		"too long":  bytes.Repeat([]byte{1}, receiveSize+1),
		"no header": {1},
	} {
		t.Run(name, func(t *testing.T) {
			conn := fakeKernel(t, func(int, Message) [][]byte { return [][]byte{answer} })
			r := &Request{}
			if err := conn.Exec(r); err == nil || r.Err() == nil || r.Done() {
				t.Errorf("got %v, and %v for the request", err, r.Err())
			}
		})
	}
}
