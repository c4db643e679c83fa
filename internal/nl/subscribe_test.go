package nl

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

func subscribe(t *testing.T, ns *sandbox.Netns) *Subscription {
	t.Helper()
	var s *Subscription
	sandboxtest.Do(t, ns, func() (err error) {
		s, err = Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR)
		return err
	})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func drained(t *testing.T, s *Subscription) string {
	t.Helper()
	var all []string
	if err := s.Drain(func(m Message) error {
		all = append(all, fmt.Sprint(m.Type, " ", m.Attrs(unix.SizeofIfAddrmsg).Get(unix.IFA_LOCAL).Addr()))
		return nil
	}); err != nil {
		t.Error(err)
	}
	return fmt.Sprint(all)
}

// An operation's notifications are there as soon as the operation is answered.
func TestNotificationsAreThereAtOnce(t *testing.T) {
	conn, ns := dial(t)
	s := subscribe(t, ns)
	if got := drained(t, s); got != "[]" {
		t.Errorf("got %s before any change", got)
	}
	if err := conn.Exec(add("10.1.0.1"), add("10.1.0.2"), remove("10.1.0.1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	if got := drained(t, s); got != "[20 10.1.0.1 20 10.1.0.2 21 10.1.0.1]" {
		t.Errorf("got %s", got)
	}
	if got := drained(t, s); got != "[]" {
		t.Errorf("got %s again", got)
	}
}

func TestWaitEnds(t *testing.T) {
	conn, ns := dial(t)
	for _, tt := range []struct {
		name string
		end  func(*Subscription)
		want error
	}{
		{"with a change", func(*Subscription) {
			if err := conn.Exec(add("10.1.0.1")); err != nil {
				t.Error(err)
			}
		}, nil},
		{"when interrupted", (*Subscription).Interrupt, os.ErrDeadlineExceeded},
		{"when closed", func(s *Subscription) { _ = s.Close() }, os.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := subscribe(t, ns)
			ended := make(chan error, 1)
			go func() { ended <- s.Wait() }()
			tt.end(s)
			select {
			case err := <-ended:
				if !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("Wait does not return")
			}
		})
	}
}

func TestResume(t *testing.T) {
	conn, ns := dial(t)
	s := subscribe(t, ns)
	s.Interrupt()
	if err := s.Wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	s.Resume()
	if err := conn.Exec(add("10.1.0.1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil {
		t.Errorf("got %v after Resume", err)
	}
}

// Notifications that did not fit are reported, after those that did. Then the
// subscription goes on.
func TestLost(t *testing.T) {
	conn, ns := dial(t)
	s := subscribe(t, ns)
	if err := s.conn.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1)
	}); err != nil {
		t.Fatal(err)
	}
	var requests []*Request
	for i := range 50 {
		ip := netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}).String()
		requests = append(requests, add(ip), remove(ip))
	}
	if err := conn.Exec(requests...); err != nil {
		t.Fatal(err)
	}
	seen := 0
	count := func(Message) error { seen++; return nil }
	if err := s.Drain(count); !errors.Is(err, ErrLost) || seen == 0 || seen == len(requests) {
		t.Errorf("got %v after %d of %d notifications", err, seen, len(requests))
	}
	if err := conn.Exec(add("10.2.0.1")); err != nil {
		t.Fatal(err)
	}
	if got := drained(t, s); got != "[20 10.2.0.1]" {
		t.Errorf("got %s afterwards", got)
	}
}

// An error of the caller does not end the drain.
func TestDrainGoesOn(t *testing.T) {
	conn, ns := dial(t)
	s := subscribe(t, ns)
	if err := conn.Exec(add("10.1.0.1"), add("10.1.0.2"), add("10.1.0.3")); err != nil {
		t.Fatal(err)
	}
	var failures []error
	err := s.Drain(func(Message) error {
		failures = append(failures, fmt.Errorf("failure %d", len(failures)))
		return failures[len(failures)-1]
	})
	if len(failures) != 3 || !errors.Is(err, failures[0]) {
		t.Errorf("got %v after %d calls", err, len(failures))
	}
}

// Other programs' messages are not taken for the kernel's, and malformed ones
// count as lost.
func TestEachMessage(t *testing.T) {
	if fromKernel(&unix.SockaddrNetlink{Pid: 7}) || !fromKernel(&unix.SockaddrNetlink{}) || fromKernel(nil) {
		t.Error("a sender is taken for another")
	}
	in := entries(0, 0, "a", "b")
	seen := 0
	if err := eachMessage(in[:len(in)-4], func(Message) error { seen++; return nil }); !errors.Is(err, ErrLost) || seen != 1 {
		t.Errorf("got %v after %d messages", err, seen)
	}
}
