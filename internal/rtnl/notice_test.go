package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

func (p *place) subscribe() *Notices {
	p.t.Helper()
	var n *Notices
	p.must(p.ns.Do(func() (err error) { n, err = Subscribe(unix.RTNLGRP_NEIGH); return err }))
	p.t.Cleanup(func() { n.Close() })
	return n
}

// drain returns all pending notices in words.
func (p *place) drain(n *Notices) string {
	p.t.Helper()
	var told []string
	p.must(n.Drain(func(n Notice) {
		what := map[bool]string{true: "gone ", false: ""}[n.Gone]
		switch {
		case n.Link == p.index:
			what += "link"
		case n.Route != nil && n.Route.Table == unix.RT_TABLE_MAIN:
			what += fmt.Sprint("route ", n.Route.Dst, " replaces ", n.Replaces)
		case n.Neighbor != nil && n.Neighbor.State == unix.NUD_PERMANENT:
			what += fmt.Sprint("neighbour ", n.Neighbor.IP, " ", n.Neighbor.MAC)
		default:
			return
		}
		told = append(told, what)
	}))
	return strings.Join(told, ", ")
}

// The notices of an operation have come when its answer comes.
func TestNoticesAreThereAtOnce(t *testing.T) {
	p := newPlace(t)
	n := p.subscribe()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	route := func(dst string) Route {
		return Route{Dst: netip.MustParsePrefix(dst), Index: p.index, Protocol: 200}
	}
	tests := []struct {
		name string
		do   func(b *Batch)
		want string
	}{
		{"an IPv4 address", func(b *Batch) { b.AddAddr(p.index, netip.MustParsePrefix("10.1.0.1/32")) }, "link"},
		{"an IPv4 route", func(b *Batch) { b.AddRoute(route("10.2.0.0/24")) }, "route 10.2.0.0/24 replaces false"},
		{"an IPv6 route", func(b *Batch) { b.AddRoute(route("fd02::/64")) }, "route fd02::/64 replaces false"},
		{"a route in place of another", func(b *Batch) {
			r := route("10.2.0.0/24")
			r.Protocol++
			b.ReplaceRoute(r)
		}, "route 10.2.0.0/24 replaces true"},
		{"routes that go", func(b *Batch) { b.DelRoute(route("10.2.0.0/24")); b.DelRoute(route("fd02::/64")) }, "gone route 10.2.0.0/24 replaces false, gone route fd02::/64 replaces false"},
		{"neighbours", func(b *Batch) {
			b.ReplaceNeighbor(Neighbor{Index: p.index, IP: netip.MustParseAddr("10.2.0.1"), MAC: mac})
			b.ReplaceNeighbor(Neighbor{Index: p.index, IP: netip.MustParseAddr("fd02::1"), MAC: mac})
		}, "neighbour 10.2.0.1 02:00:00:00:00:01, neighbour fd02::1 02:00:00:00:00:01"},
		{"nothing", func(b *Batch) {
			b.ReplaceNeighbor(Neighbor{Index: p.index, IP: netip.MustParseAddr("fd02::1"), MAC: mac})
		}, ""},
	}
	for _, tt := range tests {
		p.drain(n)
		var b Batch
		tt.do(&b)
		_ = p.conn.Run(&b) // may fail to delete a route of another protocol
		if diff := cmp.Diff(tt.want, p.drain(n)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tt.name, diff)
		}
	}
}

func TestLostNoticesAreAnError(t *testing.T) {
	p := newPlace(t)
	n := p.subscribe()
	for i := range 100_000 {
		p.must(p.handle.LinkSetAlias(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: p.index}}, fmt.Sprint("alias ", i)))
		if i%1000 == 0 && p.dropped() {
			break
		}
	}
	if err := n.Drain(func(Notice) {}); !errors.Is(err, nl.ErrLost) {
		t.Errorf("error is %v", err)
	}
	if err := n.Drain(func(Notice) {}); err != nil {
		t.Errorf("afterwards the error is %v", err)
	}
}

// dropped reports whether a socket of the namespace lost messages.
func (p *place) dropped() (dropped bool) {
	p.must(p.ns.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netlink")
		for line := range strings.Lines(string(text)) {
			const column = 8
			if f := strings.Fields(line); len(f) > column && f[column] != "0" && f[column] != "Drops" {
				dropped = true
			}
		}
		return err
	}))
	return dropped
}

func TestWaitForNotices(t *testing.T) {
	p := newPlace(t)
	n := p.subscribe()
	p.drain(n)
	came := make(chan error)
	wait := func() { came <- n.Wait() }
	go wait()
	p.must(p.handle.LinkSetAlias(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: p.index}}, "alias"))
	p.must(receive(t, came))
	if got := p.drain(n); got != "link" {
		t.Errorf("Wait read something: %q remains", got)
	}
	go wait()
	n.Interrupt()
	if err := receive(t, came); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("interrupted, the error is %v", err)
	}
	n.Resume()
	go wait()
	p.must(p.handle.LinkSetAlias(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: p.index}}, "another"))
	p.must(receive(t, came))
}

// A program with CAP_NET_ADMIN can send to subscribers, too.
func TestNoticesAreTheKernelsOnly(t *testing.T) {
	p := newPlace(t)
	n := p.subscribe()
	p.drain(n)
	p.must(p.ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		forged := make([]byte, 32) // about a link
		native.PutUint32(forged, uint32(len(forged)))
		native.PutUint16(forged[4:], unix.RTM_DELLINK)
		native.PutUint32(forged[20:], uint32(p.index))
		to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_LINK - 1)}
		return unix.Sendto(fd, forged, 0, to)
	}))
	if got := p.drain(n); got != "" {
		t.Errorf("a program's message was taken for the kernel's: %s", got)
	}
}

func receive(t *testing.T, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("Wait does not return")
		return nil
	}
}

func FuzzNotice(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWROUTE), []byte{2, 24, 0, 0, 254, 200, 0, 1, 0, 0, 0, 0})
	f.Add(uint16(unix.RTM_DELNEIGH), []byte{2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	f.Add(uint16(unix.RTM_NEWLINK), []byte{2, 0, 0, 0})
	f.Add(uint16(unix.RTM_NEWNETCONF), []byte{2, 0, 0, 0, 8, 0, 2, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, typ uint16, body []byte) { // must not panic
		if n, ok := parseNotice(nl.Message{Type: typ, Body: body}); !ok && (n.Route != nil || n.Neighbor != nil) {
			t.Errorf("a malformed message was taken for %+v", n)
		}
	})
}
