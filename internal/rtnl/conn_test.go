package rtnl

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// place is a network namespace with a bridge, and sockets in it.
type place struct {
	t      *testing.T
	ns     *sandbox.Netns
	conn   *Conn
	handle *netlink.Handle // does and reads what rtnl can't
	index  int             // of the bridge br0
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, ns: sandboxtest.NewNetns(t)}
	f, err := os.Open(p.ns.Path())
	p.must(err)
	defer f.Close()
	p.conn, err = openAt(f)
	p.must(err)
	p.handle, err = p.ns.Handle()
	p.must(err)
	t.Cleanup(func() {
		p.handle.Close()
		if err := p.conn.Close(); err != nil {
			t.Error(err)
		}
	})
	p.must(p.handle.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	link, err := p.conn.Link("br0")
	p.must(err)
	p.index = link.Index
	var b Batch
	b.SetUp(p.index)
	p.must(p.conn.Run(&b))
	return p
}

// openAt opens a socket in a namespace from the thread's own.
func openAt(netns *os.File) (*Conn, error) {
	here, err := Open()
	if err != nil {
		return nil, err
	}
	conn, err := here.OpenIn(netns, func() error { return nil })
	return conn, errors.Join(err, here.Close())
}

func (p *place) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// addresses are the bridge's, without the link-local one.
func (p *place) addresses() []string {
	p.t.Helper()
	var all []string
	p.must(p.conn.EachAddr(p.index, func(a AddrEntry) {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			all = append(all, a.Prefix.String())
		}
	}))
	return all
}

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// families are the values of each address family that the tests use.
func families() []struct{ name, addr, other, route, via string } {
	return []struct{ name, addr, other, route, via string }{
		{"IPv4", "10.1.0.1/24", "10.1.1.1/24", "10.2.0.0/16", "10.9.0.1"},
		{"IPv6", "fd01::1/64", "fd01:0:0:1::1/64", "fd02::/32", "fd09::1"},
	}
}

// The kernel goes on after an operation that it refuses, and each gets the
// error that is its own.
func TestRunTellsTheErrorsApart(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			p := newPlace(t)
			addr, other := netip.MustParsePrefix(f.addr), netip.MustParsePrefix(f.other)
			route, via := netip.MustParsePrefix(f.route), netip.MustParseAddr(f.via)
			var b Batch
			want := []struct {
				request *nl.Request
				op      string
				errno   unix.Errno
			}{
				{b.AddAddr(p.index, addr), "add address " + f.addr, 0},
				{b.AddAddr(p.index, addr), "add address " + f.addr, unix.EEXIST},
				{b.AddAddr(9999, other), "add address " + f.other, unix.ENODEV},
				{b.ReplaceRoute(Route{Dst: route, Via: via, Index: p.index, Onlink: true}), "set route " + f.route + " via " + f.via, 0},
				{b.DelLink("nowhere"), "delete link nowhere", unix.ENODEV},
				{b.DelRoute(Route{Dst: other.Masked(), Index: p.index}), "delete route " + other.Masked().String(), unix.ESRCH},
				{b.ReplaceNeighbor(Neighbor{Index: p.index, IP: via, MAC: mac}), "set neighbour " + f.via + " to 02:00:00:00:00:01", 0},
				{b.DelNeighbor(Neighbor{Index: 9999, IP: via}), "delete neighbour " + f.via, unix.ENODEV},
				{b.DelAddr(p.index, other), "delete address " + f.other, unix.EADDRNOTAVAIL},
				{b.AddAddr(p.index, other), "add address " + f.other, 0},
			}
			if err := p.conn.Run(&b); !errors.Is(err, unix.EEXIST) || !errors.Is(err, unix.ENODEV) || b.Len() != len(want) {
				t.Errorf("Run of %d operations does not give all errors: %v", b.Len(), err)
			}
			for _, w := range want {
				checkAnswer(t, w.request.Err(), w.op, w.errno)
			}
			if have := p.addresses(); len(have) != 2 || !slices.Contains(have, f.addr) || !slices.Contains(have, f.other) {
				t.Errorf("the addresses are %v", have)
			}
		})
	}
}

func checkAnswer(t *testing.T, got error, op string, errno unix.Errno) {
	t.Helper()
	if errno == 0 {
		if got != nil {
			t.Errorf("%s: %v", op, got)
		}
		return
	}
	var refused *nl.Error
	if !errors.As(got, &refused) || refused.Op != op || refused.Errno != errno {
		t.Errorf("got %v (%#v), want %s: %s", got, got, op, errno)
		return
	}
	if !errors.Is(got, errno) || !strings.HasPrefix(got.Error(), op+": "+errno.Error()) {
		t.Errorf("the error says %q", got)
	}
}

// A list may be too long for one answer.
func TestListOfMany(t *testing.T) {
	p := newPlace(t)
	const count = 3000
	var b Batch
	for i := range count {
		b.ReplaceRoute(Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), Via: netip.MustParseAddr("10.9.0.1"), Index: p.index, Onlink: true})
	}
	p.must(p.conn.Run(&b))
	seen := map[netip.Prefix]bool{}
	p.must(p.conn.EachRoute(unix.AF_INET, p.index, func(r RouteEntry) {
		if r.Via == netip.MustParseAddr("10.9.0.1") {
			seen[r.Dst] = true
		}
	}))
	if len(seen) != count {
		t.Errorf("%d of %d routes were listed", len(seen), count)
	}
}

func TestLinkThatIsNotThere(t *testing.T) {
	p := newPlace(t)
	link, err := p.conn.Link("nowhere")
	if link.Index != 0 || !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "look up link nowhere") {
		t.Errorf("got %v, %v", link, err)
	}
	// The answer to a failed request is not taken for the answer to the next one.
	if link, err := p.conn.Link("br0"); err != nil || link.Name != "br0" || link.Kind != "bridge" {
		t.Errorf("got %v, %v", link, err)
	}
}

func TestClosed(t *testing.T) {
	f, err := os.Open(sandboxtest.NewNetns(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn, err := openAt(f)
	if err != nil {
		t.Fatal(err)
	}
	before := sockets(t)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if after := sockets(t); after != before-1 {
		t.Errorf("%d sockets are open, before %d", after, before)
	}
	var b Batch
	b.SetUp(1)
	if err := conn.Run(&b); !errors.Is(err, unix.EBADF) {
		t.Errorf("Run: %v", err)
	}
	if _, err := conn.Link("lo"); !errors.Is(err, unix.EBADF) {
		t.Errorf("Link: %v", err)
	}
	if err := conn.EachAddr(0, func(AddrEntry) {}); !errors.Is(err, unix.EBADF) {
		t.Errorf("EachAddr: %v", err)
	}
	if err := conn.Close(); err == nil {
		t.Error("it was closed twice without an error")
	}
}

func sockets(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// OpenIn calls the function and opens the socket in the other namespace. The
// thread is back afterwards, also when something failed.
func TestOpenInReturns(t *testing.T) {
	ns := sandboxtest.NewNetns(t)
	open := func(path string) *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	netns, uts := open(ns.Path()), open("/proc/self/ns/uts")
	here, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, failed := threadNetns(t), errors.New("failed")
	for name, tt := range map[string]struct {
		netns *os.File
		do    error
		want  error
		words string
	}{
		"a namespace":                    {netns, nil, nil, ""},
		"a function that fails":          {netns, failed, failed, "failed"},
		"no namespace":                   {open(os.DevNull), nil, unix.EINVAL, "enter network namespace " + os.DevNull},
		"a namespace of another kind":    {uts, nil, unix.EINVAL, "enter network namespace /proc/self/ns/uts"},
		"a namespace and a second visit": {netns, nil, nil, ""},
	} {
		t.Run(name, func(t *testing.T) { // on another goroutine, so on another thread
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			before, there := sockets(t), ""
			conn, err := here.OpenIn(tt.netns, func() error {
				there = threadNetns(t)
				return tt.do
			})
			if !errors.Is(err, tt.want) || (conn == nil) != (err != nil) || !strings.Contains(fmt.Sprint(err), tt.words) {
				t.Errorf("got %v, %v", conn, err)
			}
			if tt.netns == netns && (there == home || there == "") {
				t.Errorf("the function was called in %q", there)
			}
			if conn != nil {
				if in, err := conn.InNetns(netns); !in || err != nil {
					t.Errorf("the socket is in another namespace (%v)", err)
				}
				conn.Close()
			}
			if after := sockets(t); after != before {
				t.Errorf("%d sockets are open, before %d", after, before)
			}
			if now := threadNetns(t); now != home {
				t.Errorf("the thread is in %s, it was in %s", now, home)
			}
		})
	}
}

// A thread that can't return runs no other goroutine.
func TestOpenInLosesTheWayBack(t *testing.T) {
	netns, err := os.Open(sandboxtest.NewNetns(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	defer netns.Close()
	here, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	home := threadNetns(t)
	lost := make(chan error)
	go func() {
		_, err := here.OpenIn(netns, func() error { // without capabilities setns is refused
			var none [2]unix.CapUserData
			return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		})
		lost <- err
	}()
	if err := <-lost; !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "return to the original network namespace") {
		t.Errorf("got %v", err)
	}
	// Each of these goroutines has a thread of its own, so together they use all
	// threads of the runtime.
	const threads = 50
	var all, done sync.WaitGroup
	all.Add(threads)
	for range threads {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if now := threadNetns(t); now != home {
				t.Errorf("a goroutine is in %s, not in %s", now, home)
			}
			all.Done()
			all.Wait()
		})
	}
	done.Wait()
}

func threadNetns(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return name
}

func TestIndex(t *testing.T) {
	p := newPlace(t)
	if got, err := p.conn.Index("br0"); err != nil || got != p.index {
		t.Errorf("got %d, %v, want %d", got, err, p.index)
	}
	for name, want := range map[string]error{"br1": unix.ENODEV, "a-name-too-long-": unix.EINVAL} {
		if got, err := p.conn.Index(name); !errors.Is(err, want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %d, %v, want %v", name, got, err, want)
		}
	}
}

func TestLinkByIoctl(t *testing.T) {
	p := newPlace(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: p.index}}
	for _, tt := range []struct {
		name   string
		change func() error
	}{
		{"as it was born", func() error { return nil }},
		{"up", func() error { return p.handle.LinkSetUp(bridge) }},
		{"MTU", func() error { return p.handle.LinkSetMTU(bridge, 9000) }},
		{"MAC", func() error { return p.handle.LinkSetHardwareAddr(bridge, net.HardwareAddr{2, 1, 2, 3, 4, 0xff}) }},
		{"down", func() error { return p.handle.LinkSetDown(bridge) }},
	} {
		p.must(tt.change())
		want, err := p.conn.Link("br0")
		p.must(err)
		got, err := p.conn.LinkByIoctl("br0")
		if err != nil || got.Name != "br0" || got.Index != want.Index || got.MTU != want.MTU || got.Up() != want.Up() || !bytes.Equal(got.MAC, want.MAC) {
			t.Errorf("%s: by ioctl it is %+v (%v), want %+v", tt.name, got, err, want)
		}
	}
	for name, want := range map[string]error{"br1": unix.ENODEV, "a-name-too-long-": unix.EINVAL} {
		if got, err := p.conn.LinkByIoctl(name); !errors.Is(err, want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %+v, %v, want %v", name, got, err, want)
		}
	}
}

// The kernel would wait for all CPUs to make more queues, at either end.
func TestVethHasOneQueue(t *testing.T) {
	p, pod := newPlace(t), newPlace(t)
	var b Batch
	b.AddVeth(Veth{
		Name: "veth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Master: p.index, MTU: 1500,
		Peer: VethPeer{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, Netns: pod.ns.FD()},
	})
	p.must(p.conn.Run(&b))
	for name, h := range map[string]*netlink.Handle{"veth0": p.handle, "eth0": pod.handle} {
		link, err := h.LinkByName(name)
		p.must(err)
		if a := link.Attrs(); a.NumTxQueues != 1 || a.NumRxQueues != 1 {
			t.Errorf("%s has %d queues to send and %d to receive", name, a.NumTxQueues, a.NumRxQueues)
		}
	}
}
