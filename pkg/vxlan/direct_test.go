package vxlan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// segment is what is on the link of eth0 in these tests.
func segment() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24"), netip.MustParsePrefix("fd77::/64")}
}

func TestDesiredDirectRoutes(t *testing.T) {
	const tunnel = "tunnel"
	four, six, dual, dualOver6 := families()[0], families()[1], families()[2], families()[3]
	tests := []struct {
		name string
		f    familyCase
		peer registry.Node
		want []string // the next hop to each subnet
	}{
		{"IPv4 on the link", four, node("p", "192.168.77.9", "10.244.9.0/24"), []string{"192.168.77.9"}},
		{"IPv6 on the link", six, node("p", "fd77::9", "fd44:0:0:9::/64"), []string{"fd77::9"}},
		{"IPv4 elsewhere", four, node("p", "192.168.78.9", "10.244.9.0/24"), []string{tunnel}},
		{"IPv6 elsewhere", six, node("p", "fd78::9", "fd44:0:0:9::/64"), []string{tunnel}},
		{"both on the link over IPv4", dual, node("p", "192.168.77.9 fd77::9", "10.244.9.0/24 fd44:0:0:9::/64"), []string{"192.168.77.9", "fd77::9"}},
		{"both on the link over IPv6", dualOver6, node("p", "192.168.77.9 fd77::9", "10.244.9.0/24 fd44:0:0:9::/64"), []string{"192.168.77.9", "fd77::9"}},
		{"IPv6 pods of a peer without IPv6", dual, node("p", "192.168.77.9", "10.244.9.0/24 fd44:0:0:9::/64"), []string{"192.168.77.9", tunnel}},
		{"IPv4 pods of a peer without IPv4", dualOver6, node("p", "fd77::9", "10.244.9.0/24 fd44:0:0:9::/64"), []string{tunnel, "fd77::9"}},
		{"only IPv6 on the link", dual, node("p", "192.168.78.9 fd77::9", "10.244.9.0/24 fd44:0:0:9::/64"), []string{tunnel, "fd77::9"}},
		{"second address on the link", four, node("p", "10.7.7.7 192.168.77.9", "10.244.9.0/24"), []string{"192.168.77.9"}},
		{"two subnets of a family", four, node("p", "192.168.77.9", "10.244.9.0/24 10.245.9.0/24"), []string{"192.168.77.9", "192.168.77.9"}},
		{"a subnet of a family that we lack", four, node("p", "192.168.77.9 fd77::9", "fd44:0:0:9::/64"), nil},
		{"address within its own pod subnet", four, node("p", "192.168.77.9", "192.168.77.8/29"), []string{tunnel}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(tt.f)
			in.Nodes = []registry.Node{tt.peer}
			want, err := Desired(in)
			if err != nil {
				t.Fatal(err)
			}
			if len(want.Routes) != len(tt.want) || len(want.Neighbors) != len(tt.want) {
				t.Fatalf("routes are %v, neighbours %v", want.Routes, want.Neighbors)
			}
			for i, hop := range tt.want {
				if hop != tunnel {
					want.Routes[tt.peer.Subnets[i]] = Route{Via: netip.MustParseAddr(hop), Over: in.Underlay.Index}
				}
			}
			in.Config.DirectRouting, in.Underlay.OnLink = true, segment()
			got, err := Desired(in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := diffStates(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// A peer to which no tunnel leads is reachable if none is needed.
func TestDirectRoutingNeedsNoTunnel(t *testing.T) {
	for _, tt := range []struct {
		f    familyCase
		peer registry.Node
	}{
		{families()[2], node("p", "fd77::9", "fd44:0:0:9::/64")},
		{families()[3], node("p", "192.168.77.9", "10.244.9.0/24")},
	} {
		in := input(tt.f)
		in.Nodes = []registry.Node{tt.peer}
		in.Underlay.OnLink = segment()
		if _, err := Desired(in); err == nil || !strings.Contains(err.Error(), "address, but the tunnel runs from") {
			t.Errorf("%s: error without direct routing is %v", tt.f.name, err)
		}
		in.Config.DirectRouting = true
		s, err := Desired(in)
		want := Route{Via: tt.peer.Addresses[0], Over: in.Underlay.Index}
		if err != nil || s.Routes[tt.peer.Subnets[0]] != want || len(s.Neighbors)+len(s.FDB) > 0 {
			t.Errorf("%s: got %v, %v, %v, %v", tt.f.name, s.Routes, s.Neighbors, s.FDB, err)
		}
	}
}

// A peer that has this host's address is reported, and not routed to ourselves.
func TestDirectRoutingLeavesOutBadPeers(t *testing.T) {
	for _, f := range families() {
		in := input(f)
		in.Config.DirectRouting, in.Underlay.OnLink = true, segment()
		bad := f.node(9)
		bad.Addresses = in.Own.Addresses
		taken := f.node(8)
		taken.Subnets = f.node(2).Subnets
		in.Nodes = []registry.Node{f.node(2), bad, taken}
		s, err := Desired(in)
		for _, text := range []string{`peer "host-9" is left out`, "is this host's own", `peer "host-8" is left out`, `of "host-2"`} {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: error is %v, want %q", f.name, err, text)
			}
		}
		if len(s.Routes) != len(f.node(2).Subnets) {
			t.Errorf("%s: routes are %v", f.name, s.Routes)
		}
	}
}

// direct is what a host wants with direct routing on; the underlay is found as
// the daemon finds it.
func (h *host) direct(addr string, own registry.Node, peers ...registry.Node) Input {
	h.t.Helper()
	u, err := underlay.Find(h.k.conn, underlay.Spec{Want: config.Underlay{Address: netip.MustParseAddr(addr)}, OnLink: true})
	h.must(err)
	c := testConfig()
	c.DirectRouting = true
	return Input{Config: c, Underlay: u, Own: own, Nodes: peers}
}

func (h *host) desire(in Input) State {
	h.t.Helper()
	s, err := Desired(in)
	h.must(err)
	return s
}

// Peers 2 and 3 are on the link, 4 is not.
func mixed(f familyCase) []registry.Node {
	nodes := f.nodes(2, 3, 4)
	for i, a := range nodes[2].Addresses {
		nodes[2].Addresses[i] = netip.MustParseAddr(strings.Replace(a.String(), "77", "78", 1))
	}
	return nodes
}

func TestSyncDirectRoutes(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		want := h.desire(h.direct(f.underlay, f.node(1), mixed(f)...))
		h.sync(want)
		h.check(want)
		for _, p := range f.node(2).Subnets {
			routes, err := h.nl.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{Dst: ipNet(p.String())}, netlink.RT_FILTER_DST)
			h.must(err)
			if len(routes) != 1 || routes[0].LinkIndex != h.index("eth0") || routes[0].Gw.String() != want.Routes[p].Via.String() {
				t.Errorf("routes to %s are %v", p, routes)
			}
		}
	})
}

// The routes of all peers change places whenever the setting or the underlay
// does, and nothing is left behind.
func TestSyncFollowsDirectRouting(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		h.addAddr("far", "192.168.79.1/24")
		h.addAddr("far", "fd79::1/64")
		far := strings.Replace(f.underlay, "77", "79", 1)
		peers := mixed(f)
		for i := range peers {
			for _, a := range slices.Clone(peers[i].Addresses) {
				peers[i].Addresses = append(peers[i].Addresses, netip.MustParseAddr(strings.Replace(a.String(), "77", "79", 1)))
			}
		}
		on := h.desire(h.direct(f.underlay, f.node(1), peers...))
		moved := h.desire(h.direct(far, f.node(1), peers...))
		off := h.want(f.underlay, f.node(1), peers...)
		swapped := slices.Clone(peers) // one comes to the link and one leaves it
		swapped[0].Addresses, swapped[2].Addresses = peers[2].Addresses, peers[0].Addresses
		other := h.desire(h.direct(f.underlay, f.node(1), swapped...))
		for _, want := range []State{off, on, moved, on, other, on, off, moved, off} {
			if len(h.sync(want)) == 0 {
				t.Error("nothing changed")
			}
			h.check(want)
		}
	})
}

// Direct routes outlive the tunnel's device, and the kernel reports no change of
// them.
func TestNewDeviceLeavesDirectRoutes(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		in := h.direct(f.underlay, f.node(1), mixed(f)...)
		h.sync(h.desire(in))
		messages := h.watch()
		in.Config.VNI = 7
		want := h.desire(in)
		h.sync(want)
		for _, m := range messages() {
			typ := binary.NativeEndian.Uint16(m[4:])
			isRoute := typ == unix.RTM_NEWROUTE || typ == unix.RTM_DELROUTE
			if isRoute && (concerns(m, f.node(2)) || concerns(m, f.node(3))) {
				t.Errorf("a direct route was touched: %x", m)
			}
		}
		h.check(want)
	})
}

func directFaults() []fault {
	// alter replaces the direct route to the peer by a changed one.
	alter := func(change func(s scene, r *netlink.Route)) func(s scene) {
		return func(s scene) {
			r := s.directRoute()
			change(s, r)
			s.must(s.nl.RouteReplace(r))
		}
	}
	return []fault{
		{"deleted", func(s scene) { s.must(s.nl.RouteDel(s.directRoute())) }},
		{"over the tunnel", alter(func(s scene, r *netlink.Route) {
			s.must(s.nl.RouteDel(s.directRoute()))
			r.LinkIndex, r.Gw = s.index("overlay0"), via(s.subnet()).AsSlice()
		})},
		{"over another interface", alter(func(s scene, r *netlink.Route) {
			s.must(s.nl.RouteDel(s.directRoute()))
			r.LinkIndex, r.Gw = s.index("far"), s.other().AsSlice()
		})},
		{"by way of another host", alter(func(s scene, r *netlink.Route) { r.Gw[len(r.Gw)-1] = 99 })},
		{"with an MTU", alter(func(_ scene, r *netlink.Route) { r.MTU = 1300 })},
		{"not onlink", alter(func(_ scene, r *netlink.Route) { r.Flags = 0 })},
		{"with a second next hop", func(s scene) {
			r := s.directRoute()
			r.Gw[len(r.Gw)-1] = 99
			s.must(s.nl.RouteAppend(r))
		}},
		{"multipath", alter(func(_ scene, r *netlink.Route) { multipath(r) })},
		{"of an interface that was the underlay", func(s scene) {
			p := s.f.node(9).Subnets[0]
			r := s.route(p, s.other())
			r.LinkIndex = s.index("far")
			s.must(s.nl.RouteAdd(r))
		}},
		{"with another metric", func(s scene) {
			r := s.directRoute()
			r.Priority = 7
			s.must(s.nl.RouteAdd(r))
		}},
		{"of a device that is gone", func(s scene) { s.must(s.nl.LinkDel(s.link("overlay0"))) }},
	}
}

func (s scene) directRoute() *netlink.Route {
	r := s.route(s.subnet(), s.want.Routes[s.subnet()].Via)
	r.LinkIndex = s.want.Routes[s.subnet()].Over
	return r
}

func TestSyncMendsDirectRoutes(t *testing.T) {
	t.Parallel()
	mends(t, directFaults(), func(h *host, f familyCase) State {
		return h.desire(h.direct(f.underlay, f.node(1), mixed(f)...))
	})
}

// Routes of others stay, whatever they look like.
func TestDirectRoutingLeavesOthersRoutes(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		want := h.desire(h.direct(f.underlay, f.node(1), mixed(f)...))
		h.sync(want)
		s := scene{h, f, want}
		foreign := func(change func(r *netlink.Route)) {
			r := s.directRoute()
			change(r)
			h.must(h.nl.RouteAdd(r))
		}
		foreign(func(r *netlink.Route) { r.Dst, r.Protocol = ipNet(subnet.Host(s.other()).String()), unix.RTPROT_BGP })
		foreign(func(r *netlink.Route) { r.Priority, r.Protocol = 7, unix.RTPROT_STATIC })
		foreign(func(r *netlink.Route) { r.Table = 100 })
		foreign(func(r *netlink.Route) { // one of our numbers, but not the one that we would choose
			r.Dst = ipNet(netip.PrefixFrom(s.other(), s.other().BitLen()-4).Masked().String())
			r.Protocol = netlink.RouteProtocol(firstProtocol + (protocol(netip.MustParsePrefix(r.Dst.String()))-firstProtocol+1)%protocols)
		})
		before := h.dump()
		h.check(want)
		off := h.want(f.underlay, f.node(1), mixed(f)...)
		h.sync(off)
		h.sync(want)
		h.check(want)
		if diff := cmp.Diff(before, h.dump()); diff != "" {
			t.Errorf("before and after:\n%s", diff)
		}
	})
}

// A route that somebody else has to a peer's subnet is reported and left alone.
func TestDirectRoutingRespectsARival(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		want := h.desire(h.direct(f.underlay, f.node(1), mixed(f)...))
		s := scene{host: h, f: f, want: want}
		r := &netlink.Route{LinkIndex: h.index("eth0"), Dst: ipNet(s.subnet().String()), Gw: want.Routes[s.subnet()].Via.AsSlice(), Protocol: unix.RTPROT_BGP}
		h.must(h.nl.RouteAdd(r))
		_, err := h.k.sync(want)
		if !errors.Is(err, unix.EEXIST) || !errors.Is(err, ErrPeers) || !strings.Contains(err.Error(), "ip route show "+s.subnet().String()) {
			t.Errorf("error is %v", err)
		}
		routes, err := h.nl.RouteListFiltered(unix.AF_UNSPEC, r, netlink.RT_FILTER_DST)
		h.must(err)
		if len(routes) != 1 || routes[0].Protocol != unix.RTPROT_BGP {
			t.Errorf("routes are %v", routes)
		}
	})
}

func TestDeleteRemovesDirectRoutes(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		before := h.dump()
		want := h.desire(h.direct(f.underlay, f.node(1), mixed(f)...))
		h.sync(want)
		h.remove()
		if after := h.dump(); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		h.sync(want)
		h.must(h.nl.LinkDel(h.link("overlay0")))
		h.remove()
		if after := h.dump(); after != before {
			t.Errorf("without the device: before:\n%s\nafter:\n%s", before, after)
		}
	})
}

// connect gives two hosts of a wire their states, directly routed or not.
func connect(hosts [2]*host, f familyCase, direct [2]bool) {
	for i, h := range hosts {
		h.t.Helper()
		from := strings.TrimSuffix(f.underlay, "1") + fmt.Sprint(i+1)
		in := h.direct(from, f.node(i+1), f.nodes(1, 2)...)
		in.Config.DirectRouting = direct[i]
		h.sync(h.desire(in))
	}
}

// withPods gives both hosts of a wire an address that stands for a pod, and a
// firewall that masquerades.
func withPods(hosts [2]*host, f familyCase) {
	var subnets []netip.Prefix
	packets := firewall.Tunnel{Device: "overlay0", VNI: testConfig().VNI, Port: testConfig().Port}
	for _, n := range f.nodes(1, 2) {
		subnets, packets.Peers = append(subnets, n.Subnets...), append(packets.Peers, n.Addresses...)
	}
	for i, h := range hosts {
		h.t.Helper()
		own := f.node(i + 1).Subnets
		for _, p := range own {
			h.addAddr("lo", subnet.Host(pod(p)).String())
		}
		table, err := firewall.Desired(firewall.Config{Own: own, Network: subnets, Masquerade: true, Bridge: "cni0", Tunnel: packets})
		h.must(err)
		k := firewall.New(network.Default)
		h.in(func() error {
			_, err := k.Sync(table)
			return err
		})
		k.Close()
	}
}

// received is how many packets came out of the tunnel.
func (h *host) received() uint64 { return h.link("overlay0").Attrs().Statistics.RxPackets }

// Packets between pods go by the way that each side has chosen, and keep the
// pod's address.
func TestDirectTraffic(t *testing.T) {
	t.Parallel()
	for _, direct := range [][2]bool{{true, true}, {true, false}, {false, false}} {
		for _, f := range families() {
			t.Run(fmt.Sprintf("%v/%s", direct, f.name), func(t *testing.T) {
				t.Parallel()
				hosts := pair(t, f)
				connect(hosts, f, direct)
				withPods(hosts, f)
				before := [2]uint64{hosts[0].received(), hosts[1].received()}
				for i, p := range f.node(1).Subnets {
					s := hosts[0].stream(pod(p), hosts[1].echo(pod(f.node(2).Subnets[i])))
					s.await(20)
					s.halt()
				}
				hosts[1].sources.Range(func(from, _ any) bool {
					if a := from.(netip.Addr); !slices.ContainsFunc(f.node(1).Subnets, func(p netip.Prefix) bool { return a == pod(p) }) {
						t.Errorf("packets came from %s instead of the pod's address", a)
					}
					return true
				})
				for i := range hosts { // what i sends arrives at the other one
					tunnelled := hosts[1-i].received() > before[1-i]
					if tunnelled == direct[i] {
						t.Errorf("host %d: direct routing %t, and packets in the tunnel %t", i+1, direct[i], tunnelled)
					}
				}
			})
		}
	}
}

// Not one packet is lost when a peer's routes change from the tunnel to direct
// ones and back. Not in parallel: if other tests kept the echo's goroutine from
// running, the socket's buffer would overflow, and that would count as a loss.
func TestSwitchingLosesNothing(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			hosts := pair(t, f)
			connect(hosts, f, [2]bool{})
			withPods(hosts, f)
			var streams []*stream
			for i, p := range f.node(1).Subnets {
				to := hosts[1].echo(pod(f.node(2).Subnets[i]))
				hosts[0].ping(to, 100) // a device that was made just now may lose the first ones
				streams = append(streams, hosts[0].stream(pod(p), to))
			}
			for n := range 20 {
				connect(hosts, f, [2]bool{n%2 == 0, n%2 == 0})
				for _, s := range streams {
					s.await(5)
				}
			}
			for _, s := range streams {
				sent, lost := s.end()
				if lost > 0 || sent < 100 {
					t.Errorf("%d of %d packets were lost", lost, sent)
				}
			}
		})
	}
}

// A route changes in one step: the kernel reports no deleted route.
func TestSwitchingReplacesRoutes(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		off := h.want(f.underlay, f.node(1), mixed(f)...)
		on := h.desire(h.direct(f.underlay, f.node(1), mixed(f)...))
		h.sync(off)
		for _, want := range []State{on, off} {
			messages := h.watch()
			h.sync(want)
			changed := 0
			for _, m := range messages() {
				typ, bits := binary.NativeEndian.Uint16(m[4:]), int(m[unix.NLMSG_HDRLEN+1]) // of struct rtmsg
				ofSubnet := concerns(m, f.node(2)) && slices.ContainsFunc(f.node(2).Subnets, func(p netip.Prefix) bool { return p.Bits() == bits })
				if ofSubnet && typ == unix.RTM_NEWROUTE {
					changed++
				}
				if ofSubnet && typ == unix.RTM_DELROUTE {
					t.Errorf("a route was deleted: %x", m)
				}
			}
			if changed != len(f.node(2).Subnets) {
				t.Errorf("%d routes changed: the test sees nothing", changed)
			}
		}
	})
}

// stream sends a datagram every half millisecond and counts those that come
// back.
type stream struct {
	t    testing.TB
	c    *net.UDPConn
	got  chan struct{} // one for each that came back
	stop chan struct{}
	sent chan int // how many, at the end
	n    int      // of those that came back
}

// stream begins one with the source address given.
func (h *host) stream(from netip.Addr, to netip.AddrPort) *stream {
	h.t.Helper()
	s := &stream{t: h.t, got: make(chan struct{}, 1<<16), stop: make(chan struct{}), sent: make(chan int, 1)}
	h.in(func() (err error) {
		s.c, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(to))
		return err
	})
	h.t.Cleanup(func() { s.c.Close() })
	go s.read()
	go s.write()
	return s
}

func (s *stream) write() {
	ticker := time.NewTicker(500 * time.Microsecond)
	defer ticker.Stop()
	var buf [8]byte
	for n := 0; ; n++ {
		select {
		case <-s.stop:
			s.sent <- n
			return
		case <-ticker.C:
			binary.BigEndian.PutUint64(buf[:], uint64(n))
			if _, err := s.c.Write(buf[:]); err != nil {
				s.t.Errorf("packet %d: %v", n, err)
			}
		}
	}
}

func (s *stream) read() {
	var buf [8]byte
	for {
		if _, err := s.c.Read(buf[:]); errors.Is(err, net.ErrClosed) {
			return
		} else if err == nil {
			s.got <- struct{}{}
		}
	}
}

// await returns when n more have come back.
func (s *stream) await(n int) {
	s.t.Helper()
	deadline := time.After(patience)
	for range n {
		select {
		case <-s.got:
			s.n++
		case <-deadline:
			s.t.Fatalf("%d packets came back, and no more", s.n)
		}
	}
}

// halt stops sending, and returns how many datagrams were sent.
func (s *stream) halt() int {
	close(s.stop)
	return <-s.sent
}

// end stops sending and waits for what is still on its way.
func (s *stream) end() (sent, lost int) {
	sent = s.halt()
	deadline := time.After(patience)
	for s.n < sent {
		select {
		case <-s.got:
			s.n++
		case <-deadline:
			return sent, sent - s.n
		}
	}
	return sent, 0
}
