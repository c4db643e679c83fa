package rtnl

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// place is a network namespace with a door to it, and a bridge to work on.
type place struct {
	t      *testing.T
	ns     *sandbox.Netns
	conn   *Conn
	handle *netlink.Handle // for looking at what was done, and doing what rtnl can't
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

// addresses are those of the bridge but for the kernel's own.
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

// families are the two that everything is tried with.
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

// A long list, of several answers.
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
	// The answer to what failed is not taken for that of the next question.
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

// The visit to another namespace is the socket's alone: the thread is back
// afterwards, also when it was turned away.
func TestOpenInReturns(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "no-namespace")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	uts, err := os.Open("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	defer uts.Close()
	netns, err := os.Open(sandboxtest.NewNetns(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	defer netns.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := threadNetns(t)
	for _, tt := range []struct {
		file *os.File
		want error
	}{{netns, nil}, {file, unix.EINVAL}, {uts, unix.EINVAL}} {
		before := sockets(t)
		conn, err := openAt(tt.file)
		if !errors.Is(err, tt.want) || (conn == nil) != (err != nil) {
			t.Errorf("%s: %v, %v", tt.file.Name(), conn, err)
		}
		if err != nil && !strings.Contains(err.Error(), "enter network namespace "+tt.file.Name()) {
			t.Errorf("the error does not name the file: %v", err)
		}
		if conn != nil {
			conn.Close()
		}
		if after := sockets(t); after != before {
			t.Errorf("%s: %d sockets are open, before %d", tt.file.Name(), after, before)
		}
		if now := threadNetns(t); now != home {
			t.Errorf("%s: the thread is in %s, it was in %s", tt.file.Name(), now, home)
		}
	}
}

func threadNetns(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
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

// TestVethHasOneQueue looks at both ends: with more the kernel would wait for
// all CPUs when it makes them.
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
