package underlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/pkg/config"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// host is a network namespace with eth0 and eth1, both up.
type host struct {
	t    *testing.T
	conn *rtnl.Conn
	nl   *netlink.Handle
}

// newHost moves the test into its namespace.
func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t}
	sandboxtest.Enter(t)
	var err error
	h.conn, err = rtnl.Open()
	h.must(err)
	h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	h.must(err)
	t.Cleanup(func() { h.nl.Close(); h.conn.Close() })
	h.must(h.nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1450}, PeerName: "eth1", PeerMTU: 1400}))
	for _, name := range []string{"lo", "eth0", "eth1"} {
		h.must(h.nl.LinkSetUp(h.link(name)))
	}
	h.addr("eth0", "192.168.77.1/24")
	h.addr("eth0", "fd77::1/64")
	h.addr("eth1", "192.168.88.1/24")
	return h
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

func network(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (h *host) addr(name, prefix string) {
	h.t.Helper()
	h.must(h.nl.AddrAdd(h.link(name), &netlink.Addr{IPNet: network(prefix), Flags: unix.IFA_F_NODAD}))
}

func (h *host) route(dst, name, via string, metric int) {
	h.t.Helper()
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network(dst), LinkIndex: h.link(name).Attrs().Index, Gw: net.ParseIP(via), Priority: metric}))
}

// finds looks for an underlay and compares interface, address and MTU.
func (h *host) finds(spec Spec, name, addr string, mtu int) {
	h.t.Helper()
	got, err := Find(h.conn, spec)
	h.must(err)
	want := Underlay{
		Name: name, Index: h.link(name).Attrs().Index, MTU: mtu, Address: netip.MustParseAddr(addr), Drivers: []string{"veth"},
	}
	ignored := cmpopts.IgnoreFields(Underlay{}, "Addresses", "Networks")
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), ignored); diff != "" {
		h.t.Errorf("-want +got:\n%s", diff)
	}
	if len(got.Addresses) == 0 || got.Addresses[0] != got.Address {
		h.t.Errorf("the host is reached by %v, of which the first is not %s", got.Addresses, got.Address)
	}
}

func (h *host) fails(spec Spec, text string) {
	h.t.Helper()
	got, err := Find(h.conn, spec)
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), text) {
		h.t.Errorf("got %+v, %v; want an error with %q", got, err, text)
	}
}

func TestFindByDefaultRoute(t *testing.T) {
	h := newHost(t)
	h.fails(Spec{}, "there is no default route")
	h.route("::/0", "eth0", "fd77::9", 0)
	h.finds(Spec{}, "eth0", "fd77::1", 1450)
	h.route("0.0.0.0/0", "eth0", "192.168.77.9", 100)
	h.finds(Spec{}, "eth0", "192.168.77.1", 1450)
	h.route("0.0.0.0/0", "eth1", "192.168.88.9", 50)
	h.finds(Spec{}, "eth1", "192.168.88.1", 1400)
	h.finds(Spec{NodeAddrs: addrs("fd77::1")}, "eth0", "fd77::1", 1450)
	h.finds(Spec{Ours: []string{"eth1"}}, "eth0", "192.168.77.1", 1450)
	h.must(h.nl.LinkSetDown(h.link("eth1")))
	h.finds(Spec{}, "eth0", "192.168.77.1", 1450)
}

// Default routes in other tables, and those that forbid sending, do not count.
func TestFindPassesOverOtherDefaultRoutes(t *testing.T) {
	h := newHost(t)
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network("0.0.0.0/0"), LinkIndex: h.link("eth1").Attrs().Index, Gw: net.ParseIP("192.168.88.9"), Table: 100}))
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network("0.0.0.0/0"), Type: unix.RTN_UNREACHABLE, Priority: 7}))
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network("::/0"), Type: unix.RTN_UNREACHABLE, Priority: 7}))
	h.fails(Spec{}, "there is no default route")
}

func TestFindByMultipathDefaultRoute(t *testing.T) {
	h := newHost(t)
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network("0.0.0.0/0"), MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: h.link("eth1").Attrs().Index, Gw: net.ParseIP("192.168.88.9")},
		{LinkIndex: h.link("eth0").Attrs().Index, Gw: net.ParseIP("192.168.77.9")},
	}}))
	first := "eth0"
	if h.link("eth1").Attrs().Index < h.link("eth0").Attrs().Index {
		first = "eth1"
	}
	got, err := Find(h.conn, Spec{})
	if err != nil || got.Name != first {
		t.Errorf("got %+v, %v; want %s", got, err, first)
	}
}

func TestFindByName(t *testing.T) {
	h := newHost(t)
	h.finds(Spec{Want: config.Underlay{Interface: "eth0"}}, "eth0", "192.168.77.1", 1450)
	h.fails(Spec{Want: config.Underlay{Interface: "eth9"}}, `there is no interface "eth9"`)
	h.fails(Spec{Want: config.Underlay{Interface: "lo"}}, "is a loopback")
	h.must(h.nl.LinkSetDown(h.link("eth0")))
	h.fails(Spec{Want: config.Underlay{Interface: "eth0"}}, `interface "eth0" is down`)
}

func TestFindByAddress(t *testing.T) {
	h := newHost(t)
	h.finds(Spec{Want: config.Underlay{Address: netip.MustParseAddr("fd77::1")}}, "eth0", "fd77::1", 1450)
	h.fails(Spec{Want: config.Underlay{Address: netip.MustParseAddr("192.0.2.1")}}, "eth0 192.168.77.1 fd77::1")
}

func TestFindByReachedAddress(t *testing.T) {
	h := newHost(t)
	to := func(a string) Spec { return Spec{Want: config.Underlay{Reaches: netip.MustParseAddr(a)}} }
	h.finds(to("192.168.88.7"), "eth1", "192.168.88.1", 1400)
	h.finds(to("fd77::7"), "eth0", "fd77::1", 1450)
	h.fails(to("192.0.2.1"), "no route leads to 192.0.2.1")
	h.fails(to("2001:db8::1"), "no route leads to 2001:db8::1")
	h.fails(to("192.168.77.1"), "is a loopback")
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network("192.0.2.0/24"), Type: unix.RTN_PROHIBIT}))
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network("198.51.100.0/24"), Type: unix.RTN_BLACKHOLE}))
	h.fails(to("192.0.2.1"), "no route leads to 192.0.2.1")
	h.fails(to("198.51.100.1"), "no route leads to 198.51.100.1")
}

// What is on the link follows from routes, whoever made them.
func TestFindWhatIsOnTheLink(t *testing.T) {
	h := newHost(t)
	index := h.link("eth0").Attrs().Index
	h.addr("eth0", "10.1.2.3/20")
	h.addr("eth0", "10.9.9.9/32") // as clouds give it
	h.must(h.nl.AddrAdd(h.link("eth0"), &netlink.Addr{IPNet: network("172.16.0.1/16"), Peer: network("172.17.0.2/32")}))
	noRoute := &netlink.Addr{IPNet: network("10.50.0.1/16"), Flags: unix.IFA_F_NOPREFIXROUTE} // as NetworkManager
	h.must(h.nl.AddrAdd(h.link("eth0"), noRoute))
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network("10.60.0.0/16"), LinkIndex: index, Scope: netlink.SCOPE_LINK, Priority: 100}))
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network("fd60::/64"), LinkIndex: index, Priority: 100}))
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network("10.61.0.0/16"), LinkIndex: index, Scope: netlink.SCOPE_LINK, Table: 100}))
	h.must(h.nl.RouteAdd(&netlink.Route{Dst: network("0.0.0.0/0"), LinkIndex: index, Scope: netlink.SCOPE_LINK}))
	h.route("10.62.0.0/16", "eth0", "192.168.77.9", 0)
	h.route("fd62::/64", "eth0", "fd77::9", 0)
	got, err := Find(h.conn, Spec{NodeAddrs: addrs("192.168.77.1"), OnLink: true})
	h.must(err)
	var text []string
	for _, p := range got.OnLink {
		text = append(text, p.String())
	}
	slices.Sort(text)
	want := []string{"10.1.0.0/20", "10.60.0.0/16", "172.17.0.2/32", "192.168.77.0/24", "fd60::/64", "fd77::/64"}
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got, err := Find(h.conn, Spec{NodeAddrs: addrs("192.168.77.1")}); err != nil || got.OnLink != nil {
		t.Errorf("got %v, %v without asking for it", got.OnLink, err)
	}
}

// A VLAN on a bond has the drivers of all below it.
func TestFindDrivers(t *testing.T) {
	h := newHost(t)
	h.must(h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	h.must(h.nl.LinkSetMaster(h.link("eth1"), h.link("br0")))
	h.must(h.nl.LinkAdd(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mac0", ParentIndex: h.link("br0").Attrs().Index}}))
	for _, name := range []string{"br0", "mac0"} {
		h.must(h.nl.LinkSetUp(h.link(name)))
	}
	h.addr("mac0", "10.3.0.1/24")
	got, err := Find(h.conn, Spec{NodeAddrs: addrs("10.3.0.1")})
	h.must(err)
	if diff := cmp.Diff([]string{"bridge", "macvlan", "veth"}, got.Drivers); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Of several addresses of a family the one that stays is taken: hosts that give
// themselves addresses have temporary ones beside it, which the kernel lists
// first.
func TestFindTakesTheAddressThatStays(t *testing.T) {
	add := func(h *host, prefix string, flags int, valid int) {
		h.must(h.nl.AddrAdd(h.link("eth0"), &netlink.Addr{IPNet: network(prefix), Flags: flags, ValidLft: valid, PreferedLft: 0}))
	}
	for _, tt := range []struct {
		name  string
		alter func(h *host)
		want  string // the address of each family, the tunnel's first
	}{
		{"as it is", func(*host) {}, "[192.168.77.1 fd77::1]"},
		{"a deprecated one", func(h *host) { add(h, "fd77::d/64", unix.IFA_F_NODAD, 1000) }, "[192.168.77.1 fd77::1]"},
		{"one that may be a duplicate", func(h *host) {
			h.must(h.nl.AddrAdd(h.link("eth0"), &netlink.Addr{IPNet: network("fd77::7/64")}))
		}, "[192.168.77.1 fd77::1]"},
		{"a service's", func(h *host) {
			h.addr("eth0", "fd77::5/128")
			h.must(h.nl.AddrDel(h.link("eth0"), &netlink.Addr{IPNet: network("192.168.77.1/24")}))
			h.addr("eth0", "192.168.77.5/32")
			h.addr("eth0", "192.168.77.1/24")
		}, "[192.168.77.1 fd77::1]"},
		{"a service's alone", func(h *host) {
			h.must(h.nl.AddrDel(h.link("eth0"), &netlink.Addr{IPNet: network("fd77::1/64")}))
			h.addr("eth0", "fd77::5/128")
		}, "[192.168.77.1]"},
		{"one family", func(h *host) {
			h.must(h.nl.AddrDel(h.link("eth0"), &netlink.Addr{IPNet: network("fd77::1/64")}))
		}, "[192.168.77.1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			tt.alter(h)
			got, err := Find(h.conn, Spec{Want: config.Underlay{Interface: "eth0"}})
			if h.must(err); fmt.Sprint(got.Addresses) != tt.want {
				t.Errorf("got %v, want %s", got.Addresses, tt.want)
			}
		})
	}
}

// awaitFlag returns when the kernel tells that an address has a flag.
func (h *host) awaitFlag(addr netip.Addr, flag int, updates <-chan netlink.AddrUpdate) {
	h.t.Helper()
	const patience = 10 * time.Second // the kernel takes a second at most
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	for {
		select {
		case u := <-updates:
			if u.LinkAddress.IP.Equal(addr.AsSlice()) && u.Flags&flag != 0 {
				return
			}
		case <-ctx.Done():
			h.t.Fatalf("%s has no flag %#x after %s", addr, flag, patience)
		}
	}
}

// If duplicate address detection (RFC 4862, IPv6 only) finds another host with the
// address, the address stays on the interface but can't be used. Here the other host
// is eth0, which is on the same wire as eth1.
func TestFindLeavesOutDuplicates(t *testing.T) {
	h := newHost(t)
	updates, done := make(chan netlink.AddrUpdate), make(chan struct{})
	h.must(netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{}))
	defer func() {
		close(done)
		for range updates {
			// Whoever sends waits for a reader, and ends after that.
		}
	}()
	duplicate := netip.MustParseAddr("fd77::1")
	h.must(h.nl.AddrAdd(h.link("eth1"), &netlink.Addr{IPNet: network("fd77::1/64")}))
	h.awaitFlag(duplicate, unix.IFA_F_DADFAILED, updates)

	byName := Spec{Want: config.Underlay{Interface: "eth1"}, Family: family.IPv6}
	h.fails(byName, `interface "eth1" has no global IPv6 address`)
	h.must(h.nl.AddrDel(h.link("eth0"), &netlink.Addr{IPNet: network("fd77::1/64")}))
	h.fails(Spec{Want: config.Underlay{Address: duplicate}}, "no interface has the address fd77::1")
	h.fails(Spec{NodeAddrs: []netip.Addr{duplicate}}, "no interface has an address by which the registry knows this host")
	h.addr("eth1", "fd88::1/64")
	h.finds(byName, "eth1", "fd88::1", 1400)
}

// The kernel is read once for each Spec, and again after Forget.
func TestFinderReadsWhenToldTo(t *testing.T) {
	h := newHost(t)
	f, spec := NewFinder(h.conn), Spec{Want: config.Underlay{Interface: "eth0"}}
	mtu := func(spec Spec) int {
		t.Helper()
		u, err := f.Find(spec)
		h.must(err)
		return u.MTU
	}
	if got := mtu(spec); got != 1450 {
		t.Fatalf("the MTU is %d", got)
	}
	h.must(h.nl.LinkSetMTU(h.link("eth0"), 1300))
	if got := mtu(spec); got != 1450 {
		t.Errorf("the kernel is read again: the MTU is %d", got)
	}
	if got := mtu(Spec{Want: config.Underlay{Interface: "eth0"}, NodeAddrs: addrs("fd77::1")}); got != 1300 {
		t.Errorf("another Spec gives the MTU %d", got)
	}
	f.Forget()
	if got := mtu(spec); got != 1300 {
		t.Errorf("after Forget the MTU is %d", got)
	}
	h.must(h.nl.LinkSetDown(h.link("eth0")))
	f.Forget()
	if _, err := f.Find(spec); !errors.Is(err, ErrNotFound) {
		t.Errorf("an interface that is down: %v", err)
	}
	h.must(h.nl.LinkSetUp(h.link("eth0")))
	if got := mtu(spec); got != 1300 {
		t.Errorf("the error is remembered: the MTU is %d", got)
	}
}
