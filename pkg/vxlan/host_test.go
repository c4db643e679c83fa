package vxlan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// host is a network namespace with an underlay interface.
type host struct {
	t  testing.TB
	k  *Kernel
	nl *netlink.Handle
	ns *sandbox.Netns
	// sources are the addresses that sent to echo.
	sources sync.Map
}

// newHost makes the namespace, which goes with the test.
func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{t: t, ns: sandboxtest.NewNetns(t)}
	h.in(func() error {
		var errs [2]error
		h.k, errs[0] = Open()
		h.nl, errs[1] = netlink.NewHandle(unix.NETLINK_ROUTE)
		return errors.Join(errs[:]...)
	})
	t.Cleanup(func() { h.nl.Close(); h.k.Close() })
	return h
}

// in runs f in the namespace.
func (h *host) in(f func() error) {
	h.t.Helper()
	sandboxtest.Do(h.t, h.ns, f)
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) link(name string) netlink.Link {
	h.t.Helper()
	l, err := h.nl.LinkByName(name)
	h.must(err)
	return l
}

func (h *host) index(name string) int { return h.link(name).Attrs().Index }

// withUnderlay adds an eth0 that has the addresses, and a far end that leads
// nowhere.
func (h *host) withUnderlay(addrs ...string) *host {
	h.t.Helper()
	h.must(h.nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500}, PeerName: "far"}))
	h.must(h.nl.LinkSetUp(h.link("eth0")))
	h.must(h.nl.LinkSetUp(h.link("far")))
	for _, a := range addrs {
		h.addAddr("eth0", a)
	}
	return h
}

func (h *host) addAddr(name, prefix string) {
	h.t.Helper()
	h.must(h.nl.AddrAdd(h.link(name), &netlink.Addr{IPNet: ipNet(prefix), Flags: unix.IFA_F_NODAD}))
}

func ipNet(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// underlayOf is eth0 with one of its addresses.
func (h *host) underlayOf(addr string) underlay.Underlay {
	h.t.Helper()
	return underlay.Underlay{Name: "eth0", Index: h.index("eth0"), MTU: 1500, Address: netip.MustParseAddr(addr)}
}

// want is the desired state of host 1 among others, with the underlay given.
func (h *host) want(addr string, own registry.Node, peers ...registry.Node) State {
	h.t.Helper()
	s, err := Desired(Input{Config: testConfig(), Underlay: h.underlayOf(addr), Own: own, Nodes: peers})
	h.must(err)
	return s
}

func testConfig() Config {
	return Config{Config: tunnel.Config{Device: "overlay0", VNI: 1, Port: 4789}}
}

// sync must succeed; it returns what was changed.
func (h *host) sync(want State) Changes {
	h.t.Helper()
	c, err := h.k.sync(want)
	h.must(err)
	return c
}

// remove must succeed.
func (h *host) remove() {
	h.t.Helper()
	_, err := h.k.Remove("overlay0")
	h.must(err)
}

// check compares the kernel with want. It makes sure that another sync changes
// nothing, both after the kernel's notifications and after a full read.
func (h *host) check(want State) {
	h.t.Helper()
	have, err := h.k.read(want.Device)
	h.must(err)
	if diff := diffStates(want, have); diff != "" {
		h.t.Fatalf("the kernel's state is not the desired one (-want +have):\n%s", diff)
	}
	for _, n := range notices() {
		n.prepare(h.k)
		if again := h.sync(want); len(again) > 0 {
			h.t.Fatalf("another sync is not idle (%s): %s", n.name, again)
		}
	}
}

func diffStates(want, have State) string {
	have.Device.Index = 0
	have.Device.Claimed = want.Device.Claimed
	return cmp.Diff(want, have, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
}

// node is a registry entry such as node("b", "192.168.77.2 fd77::2", "10.244.2.0/24").
func node(name, addrs, subnets string) registry.Node {
	n := registry.Node{Name: name}
	for _, a := range strings.Fields(addrs) {
		n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
	}
	for _, p := range strings.Fields(subnets) {
		n.Subnets = append(n.Subnets, netip.MustParsePrefix(p))
	}
	return n
}

// familyCase is the column of the tables: which addresses the tunnel runs on and
// which the pods have.
type familyCase struct {
	name     string
	underlay string // this host's address
	hosts    string // of other hosts, with the number to fill in
	subnets  string // of any host
}

func families() []familyCase {
	return []familyCase{
		{"IPv4", "192.168.77.1", "192.168.77.%d", "10.244.%d.0/24"},
		{"IPv6", "fd77::1", "fd77::%d", "fd44:0:0:%d::/64"},
		{"dual stack over IPv4", "192.168.77.1", "192.168.77.%d fd77::%d", "10.244.%d.0/24 fd44:0:0:%d::/64"},
		{"dual stack over IPv6", "fd77::1", "192.168.77.%d fd77::%d", "fd44:0:0:%d::/64 10.244.%d.0/24"},
	}
}

// node is host i: its addresses and subnets carry the number.
func (f familyCase) node(i int) registry.Node {
	fill := func(s string) string { return strings.ReplaceAll(s, "%d", fmt.Sprint(i)) }
	return node(fmt.Sprintf("host-%d", i), fill(f.hosts), fill(f.subnets))
}

func (f familyCase) nodes(numbers ...int) []registry.Node {
	var ns []registry.Node
	for _, i := range numbers {
		ns = append(ns, f.node(i))
	}
	return ns
}

// eachFamily runs a test on a host with the underlay of each family.
func eachFamily(t *testing.T, test func(t *testing.T, h *host, f familyCase)) {
	t.Helper()
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			test(t, newHost(t).withUnderlay("192.168.77.1/24", "fd77::1/64"), f)
		})
	}
}

func via(p netip.Prefix) netip.Addr { return subnet.VTEP(p) }

func contains(changes Changes, verb Verb) bool {
	return slices.ContainsFunc(changes, func(o Op) bool { return o.Verb == verb })
}

// dump is everything in the namespace that a sync could touch, as text. It
// leaves out what the kernel adds some time after a link went up.
func (h *host) dump() string {
	h.t.Helper()
	var lines []string
	links, err := h.nl.LinkList()
	h.must(err)
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		lines = append(lines, fmt.Sprintln("link", a.Name, l.Type(), a.HardwareAddr, a.MTU, a.RawFlags&unix.IFF_UP, a.Alias))
	}
	addrs, err := h.nl.AddrList(nil, unix.AF_UNSPEC)
	h.must(err)
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			lines = append(lines, fmt.Sprintln("address", names[a.LinkIndex], a.IPNet, a.Peer))
		}
	}
	routes, err := h.nl.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	h.must(err)
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_KERNEL {
			lines = append(lines, fmt.Sprintln("route", names[r.LinkIndex], r.Dst, r.Gw, r.MultiPath, r.Table, r.Priority, r.Type, r.Protocol, r.MTU, r.ListFlags()))
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		neighbors, err := h.nl.NeighList(0, family)
		h.must(err)
		for _, n := range neighbors {
			if n.State == netlink.NUD_PERMANENT && n.HardwareAddr[0]&1 == 0 {
				lines = append(lines, fmt.Sprintln("neighbour", names[n.LinkIndex], n.IP, n.HardwareAddr, n.State, n.Flags))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
