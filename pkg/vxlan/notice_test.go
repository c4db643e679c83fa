package vxlan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// kept is a host whose device is synced again and again. A Kernel of its own,
// which never syncs, reads the actual state.
type kept struct {
	scene
	input  Input
	reader *Kernel
	r      *rand.Rand
	trail  []string // what was done
}

func newKept(t *testing.T, f familyCase, seed uint64) *kept {
	h := newHost(t).withUnderlay("192.168.77.1/24", "fd77::1/64")
	h.withoutLinkLocal("eth0", "far")
	s := &kept{scene: scene{host: h, f: f}, r: rand.New(rand.NewPCG(seed, 0))}
	s.input = Input{Config: testConfig(), Underlay: h.underlayOf(f.underlay), Own: f.node(1), Nodes: f.nodes(1, 2, 3, 4, 5)}
	s.input.Config.DirectRouting = s.r.IntN(2) == 0
	s.input.Config.Claimed = true
	s.input.Underlay.OnLink = []netip.Prefix{netip.MustParsePrefix("192.168.77.0/30"), netip.MustParsePrefix("fd77::/126")}
	h.in(func() (err error) { s.reader, err = Open(); return err })
	t.Cleanup(func() { s.reader.Close() })
	return s
}

// withoutLinkLocal removes addresses that the kernel would report later, after
// duplicate address detection.
func (h *host) withoutLinkLocal(names ...string) {
	for _, name := range names {
		l := h.link(name)
		h.must(h.nl.LinkSetIP6AddrGenMode(l, 1)) // IN6_ADDR_GEN_MODE_NONE
		addrs, err := h.nl.AddrList(l, unix.AF_INET6)
		h.must(err)
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				h.must(h.nl.AddrDel(l, &a))
			}
		}
	}
}

// keep syncs the device with the input and returns what was changed.
func (s *kept) keep() (Changes, error) {
	want, err := Desired(s.input)
	s.must(err)
	s.want = want
	return s.k.sync(want)
}

// settle syncs until there is nothing to do.
func (s *kept) settle() {
	s.t.Helper()
	for range 10 {
		changes, err := s.keep()
		if err != nil {
			s.tidy() // what others did is in the way
		} else if len(changes) == 0 {
			return
		}
	}
	s.fatal("the device does not come to rest")
}

func (s *kept) fatal(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf(format+"\nafter: %s", append(args, strings.Join(s.trail, "; "))...)
}

func (s *kept) read() State {
	s.t.Helper()
	have, err := s.reader.read(s.want.Device)
	s.must(err)
	return have
}

func entries(s State) State {
	return State{Routes: s.Routes, Neighbors: s.Neighbors, FDB: s.FDB, Unmanaged: s.Unmanaged}
}

// subnet is that of a peer, or of nobody.
func (s *kept) anySubnet() netip.Prefix {
	subnets := s.f.node(2 + s.r.IntN(5)).Subnets
	return subnets[s.r.IntN(len(subnets))]
}

func (s *kept) anyHost() netip.Addr {
	for _, a := range s.f.node(2 + s.r.IntN(8)).Addresses {
		if a.Is4() == s.want.Device.Tunnel.Local.Is4() {
			return a
		}
	}
	return s.otherHost()
}

// one returns one of the values, most often the first.
func one[T any](s *kept, usual T, others ...T) T {
	if len(others) == 0 || s.r.IntN(5) > 0 {
		return usual
	}
	return others[s.r.IntN(len(others))]
}

// anyRoute is mostly like one of ours.
func (s *kept) anyRoute() *netlink.Route {
	dst := s.anySubnet()
	r := s.route(dst, one(s, via(dst), s.other()))
	r.LinkIndex = one(s, r.LinkIndex, s.index("eth0"), s.index("far"))
	r.Protocol = one(s, r.Protocol, unix.RTPROT_STATIC)
	r.Priority = one(s, 0, 5)
	r.Table = one(s, unix.RT_TABLE_MAIN, 100, unix.RT_TABLE_LOCAL)
	if s.r.IntN(10) == 0 {
		r.Flags, r.Gw, r.Scope = 0, nil, netlink.SCOPE_LINK
		if dst.Addr().Is6() {
			r.Scope = 0
		}
	}
	if s.r.IntN(20) == 0 && r.Gw != nil {
		multipath(r)
	}
	return r
}

// deed is a change that any program may make. The kernel may refuse it.
type deed struct {
	name string
	do   func(*kept) error
}

func deeds() []deed {
	state := func(s *kept) int {
		return one(s, netlink.NUD_PERMANENT, netlink.NUD_STALE, netlink.NUD_NOARP, netlink.NUD_REACHABLE, netlink.NUD_FAILED)
	}
	neigh := func(s *kept) *netlink.Neigh {
		n := s.neigh(via(s.anySubnet()), one(s, s.mac(), strangeMAC))
		n.State = state(s)
		return n
	}
	fdb := func(s *kept) *netlink.Neigh {
		n := s.fdb(one(s, vtepMAC(s.f.node(2+s.r.IntN(5))), MAC{}, MAC{1, 0, 0x5e, 0, 0, 1}, strangeMAC), s.anyHost())
		n.State = one(s, netlink.NUD_PERMANENT, netlink.NUD_REACHABLE)
		return n
	}
	return []deed{
		{"route add", func(s *kept) error { return s.nl.RouteAdd(s.anyRoute()) }},
		{"route append", func(s *kept) error { return s.nl.RouteAppend(s.anyRoute()) }},
		{"route replace", func(s *kept) error { return s.nl.RouteReplace(s.anyRoute()) }},
		{"route change", func(s *kept) error { return s.nl.RouteChange(s.anyRoute()) }},
		{"route del", func(s *kept) error { return s.nl.RouteDel(s.anyRoute()) }},
		{"route del of any kind", func(s *kept) error { return s.nl.RouteDel(&netlink.Route{Dst: ipNet(s.anySubnet().String())}) }},
		{"neigh replace", func(s *kept) error { return s.nl.NeighSet(neigh(s)) }},
		{"neigh add", func(s *kept) error { return s.nl.NeighAdd(neigh(s)) }},
		{"neigh del", func(s *kept) error { return s.nl.NeighDel(neigh(s)) }},
		{"neigh add proxy", func(s *kept) error {
			n := neigh(s)
			n.Flags, n.HardwareAddr = netlink.NTF_PROXY, nil
			return s.nl.NeighAdd(n)
		}},
		{"neigh del proxy", func(s *kept) error {
			n := neigh(s)
			n.Flags, n.HardwareAddr = netlink.NTF_PROXY, nil
			return s.nl.NeighDel(n)
		}},
		{"fdb replace", func(s *kept) error { return s.nl.NeighSet(fdb(s)) }},
		{"fdb add", func(s *kept) error { return s.nl.NeighAdd(fdb(s)) }},
		{"fdb append", func(s *kept) error { return s.nl.NeighAppend(fdb(s)) }},
		{"fdb del", func(s *kept) error { return s.nl.NeighDel(fdb(s)) }},
		{"a peer changes", func(s *kept) error { s.change(); return nil }},
		{"keep", func(s *kept) error { _, err := s.keep(); return err }},
	}
}

// upheavals are rare deeds that change much.
func upheavals() []deed {
	link := func(name string, do func(s *kept, l netlink.Link) error) func(*kept) error {
		return func(s *kept) error { return do(s, s.link(name)) }
	}
	down := func(s *kept, l netlink.Link) error { return s.nl.LinkSetDown(l) }
	up := func(s *kept, l netlink.Link) error { return s.nl.LinkSetUp(l) }
	return []deed{
		{"fdb flush", func(s *kept) error { return s.flushFDB() }},
		{"route flush", func(s *kept) error {
			for p, r := range s.want.Routes {
				_ = s.nl.RouteDel(s.route(p, r.Via))
			}
			return nil
		}},
		{"overlay0 down", link("overlay0", down)},
		{"overlay0 up", link("overlay0", up)},
		{"overlay0 deleted", link("overlay0", func(s *kept, l netlink.Link) error { return s.nl.LinkDel(l) })},
		{"overlay0 gets another MTU", link("overlay0", func(s *kept, l netlink.Link) error { return s.nl.LinkSetMTU(l, 1300) })},
		{"overlay0 gets another MAC", link("overlay0", func(s *kept, l netlink.Link) error { return s.nl.LinkSetHardwareAddr(l, strangeMAC[:]) })},
		{"overlay0 loses its addresses", link("overlay0", func(s *kept, l netlink.Link) error {
			for p := range s.want.Addresses {
				_ = s.nl.AddrDel(l, &netlink.Addr{IPNet: ipNet(p.String())})
			}
			return nil
		})},
		{"overlay0 loses IPv6", func(s *kept) error { return s.setIPv6("overlay0", "1") }},
		{"overlay0 has IPv6", func(s *kept) error { return s.setIPv6("overlay0", "0") }},
		{"eth0 down", link("eth0", down)},
		{"eth0 up", link("eth0", up)},
		{"eth0 loses its addresses", link("eth0", func(s *kept, l netlink.Link) error {
			return s.nl.AddrDel(l, &netlink.Addr{IPNet: ipNet("192.168.77.1/24")})
		})},
		{"eth0 gets its addresses", link("eth0", func(s *kept, l netlink.Link) error {
			return s.nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet("192.168.77.1/24")})
		})},
		{"far down", link("far", down)},
		{"far up", link("far", up)},
		{"far gets a peer's address", link("far", func(s *kept, l netlink.Link) error {
			p := s.anySubnet()
			return s.nl.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(p.Addr().Next(), p.Bits()).String())})
		})},
		{"far loses its addresses", link("far", func(s *kept, l netlink.Link) error { return s.withoutAddresses(l) })},
	}
}

func (s *kept) setIPv6(name, disabled string) error {
	s.in(func() error {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte(disabled), 0o644)
		return nil
	})
	return nil
}

func (s *kept) withoutAddresses(l netlink.Link) error {
	addrs, err := s.nl.AddrList(l, unix.AF_UNSPEC)
	for _, a := range addrs {
		_ = s.nl.AddrDel(l, &a)
	}
	return err
}

// flushFDB is "bridge fdb flush dev overlay0".
func (s *kept) flushFDB() error {
	const bulk = 0x200 // NLM_F_BULK
	req := nl.NewNetlinkRequest(unix.RTM_DELNEIGH, unix.NLM_F_ACK|bulk)
	req.AddData(&netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(s.index("overlay0")), Flags: unix.NTF_SELF})
	var err error
	s.in(func() error {
		_, err = req.Execute(unix.NETLINK_ROUTE, 0)
		return nil
	})
	return err
}

// change moves a peer, takes it away or brings it back.
func (s *kept) change() {
	var nodes = s.f.nodes(1)
	for i := 2; i <= 5; i++ {
		if s.r.IntN(6) == 0 {
			continue
		}
		n := s.f.node(i)
		if s.r.IntN(3) == 0 {
			n.Addresses = s.f.node(10 + i + s.r.IntN(3)).Addresses
		}
		nodes = append(nodes, n)
	}
	s.input.Nodes = nodes
}

// tidy removes what keeps the device from being set up, and is none of our
// business.
func (s *kept) tidy() {
	s.trail = append(s.trail, "tidy")
	_ = s.setIPv6("overlay0", "0")
	_ = s.withoutAddresses(s.link("far"))
	for _, name := range []string{"eth0", "far"} {
		s.must(s.nl.LinkSetUp(s.link(name)))
	}
	_ = s.nl.AddrAdd(s.link("eth0"), &netlink.Addr{IPNet: ipNet("192.168.77.1/24")})
	_ = s.nl.AddrAdd(s.link("eth0"), &netlink.Addr{IPNet: ipNet("fd77::1/64"), Flags: unix.IFA_F_NODAD})
	routes, err := s.nl.RouteList(nil, unix.AF_UNSPEC)
	s.must(err)
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_KERNEL {
			_ = s.nl.RouteDel(&r)
		}
	}
}

// After any deed: if the Kernel sees no reason to read the entries again, they
// are as the Kernel left them. The next sync mends everything else.
func TestNothingDiffersWithoutAReasonToRead(t *testing.T) {
	t.Parallel()
	const seeds = 8 // of each family; hundreds were tried
	quiet, all := 0, 0
	for _, f := range families() {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprintf("%s/%d", f.name, seed), func(t *testing.T) {
				s := newKept(t, f, seed)
				s.settle()
				for range 60 {
					quiet += s.step()
					all++
				}
				s.tidy()
				s.settle()
				if diff := diffStates(s.want, s.read()); diff != "" {
					s.fatal("at the end (-want +have):\n%s", diff)
				}
			})
		}
	}
	t.Logf("%d of %d deeds were no reason to read", quiet, all)
	if quiet < all/5 || quiet > all*4/5 {
		t.Error("deeds of one kind are too few to show anything")
	}
}

// step does something, and returns 1 if that was no reason to read.
func (s *kept) step() (quiet int) {
	s.t.Helper()
	list := deeds()
	if s.r.IntN(12) == 0 {
		list = upheavals()
	}
	deed := list[s.r.IntN(len(list))]
	if s.k.reread || s.read().Device.Index == 0 {
		s.mend() // else the deed would show nothing
	}
	s.trail = append(s.trail, deed.name)
	refused := deed.do(s)
	s.news()
	if !s.k.reread {
		quiet = 1
		if diff := diffStates(entries(s.k.expected.State), entries(s.read())); diff != "" {
			s.fatal("a difference is no reason to read (refused: %v; -expected +have):\n%s", refused, diff)
		}
	}
	if s.r.IntN(3) == 0 {
		s.mend()
	}
	return quiet
}

// mend syncs, and compares if nothing of others was in the way.
func (s *kept) mend() {
	s.t.Helper()
	s.trail = append(s.trail, "keep")
	s.settle() // of several routes the kernel may delete another one than was meant
	if diff := diffStates(s.want, s.read()); diff != "" {
		s.fatal("after a sync (-want +have):\n%s", diff)
	}
}

// patience bounds every wait, on a machine that is busy.
const patience = 30 * time.Second

// watched returns a kept host, and a channel that receives when Watch calls
// changed.
func watched(t *testing.T, f familyCase) (*kept, <-chan struct{}) {
	s := newKept(t, f, 1)
	s.settle()
	ctx, cancel := context.WithCancel(context.Background())
	told, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- s.k.Watch(ctx, func() {
			select {
			case told <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("watching does not end")
		}
	})
	return s, told
}

// Everything that Sync mends is a reason to read, and its own work is none.
func TestOnlyOthersMakeNews(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			s := newKept(t, f, 1)
			s.settle()
			for _, fault := range slices.Concat(routeFaults(), neighborFaults(), fdbFaults()) {
				s.trail = []string{fault.name}
				fault.do(s.scene)
				if !s.news() {
					s.fatal("it is no news")
				}
				s.mend()
				s.worksUnheard()
			}
		})
	}
}

// worksUnheard lets some peers leave and join, and checks that Sync's own
// changes are no reason to read. It ignores notifications about links, which
// come for a while after the device went up.
func (s *kept) worksUnheard() {
	s.t.Helper()
	for _, nodes := range [][]int{{1, 2}, {1, 2, 3, 4, 5}} {
		s.input.Nodes = s.f.nodes(nodes...)
		if changes, err := s.keep(); err != nil || len(changes) < 9 {
			s.fatal("sync: %v, %v", changes, err)
		}
		s.must(s.k.notices.Drain(func(n rtnl.Notice) {
			if n.Link == 0 && s.k.expected.contradictedBy(n) {
				s.fatal("own work is news: %+v", n)
			}
		}))
	}
}

// news reports whether a notification contradicts the desired state.
func (s *kept) news() bool {
	s.t.Helper()
	news, err := s.k.pollLocked()
	s.must(err)
	return news
}

func TestWatchTells(t *testing.T) {
	t.Parallel()
	s, told := watched(t, families()[0])
	for range 10 {
		s.must(s.nl.NeighDel(s.fdb(s.mac(), s.want.FDB[s.mac()].Host)))
		select {
		case <-told:
		case <-time.After(patience):
			t.Fatal("nothing was told")
		}
		s.mend()
	}
}

// Notifications that don't fit into the socket's buffer are a reason to read.
func TestLostNotificationsAreMended(t *testing.T) {
	t.Parallel()
	s, told := watched(t, families()[0])
	s.k.mu.Lock()
	dst := netip.MustParsePrefix("10.99.0.0/24")
	for range 15_000 {
		s.must(s.nl.RouteAdd(s.route(dst, via(dst))))
		s.must(s.nl.RouteDel(s.route(dst, via(dst))))
	}
	s.must(s.nl.NeighDel(s.fdb(s.mac(), s.want.FDB[s.mac()].Host)))
	s.k.mu.Unlock()
	select {
	case <-told:
	case <-time.After(patience):
		t.Fatal("nothing was told")
	}
	s.mend()
}

// An operation that the kernel refuses is a reason to read.
func TestRefusedOperationsReadAgain(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		s := newKept(t, f, 1)
		s.input.Config.DirectRouting = false
		s.settle()
		peer := s.f.node(9)
		rival := s.route(peer.Subnets[0], s.otherHost())
		rival.LinkIndex, rival.Gw, rival.Flags, rival.Protocol = s.index("far"), nil, 0, unix.RTPROT_STATIC
		s.must(s.nl.RouteAdd(rival))
		s.input.Nodes = append(s.input.Nodes, peer)
		if _, err := s.keep(); !errors.Is(err, ErrPeers) || !s.k.reread {
			t.Errorf("%s: error is %v, reread %t", f.name, err, s.k.reread)
		}
		s.must(s.nl.RouteDel(rival))
		s.settle()
		if diff := diffStates(s.want, s.read()); diff != "" {
			t.Errorf("%s: -want +have:\n%s", f.name, diff)
		}
	}
}

// Of several routes to one destination the kernel replaces the first, be it
// another program's. Then one Sync finds that ours is still wrong.
func TestRivalRoutes(t *testing.T) {
	t.Parallel()
	s := newKept(t, families()[0], 1)
	s.input.Config.DirectRouting = false
	s.settle()
	dst := s.subnet()
	wrong, rival := s.route(dst, s.other()), s.route(dst, via(dst))
	rival.LinkIndex, rival.Gw, rival.Flags, rival.Protocol = s.index("far"), nil, 0, unix.RTPROT_STATIC
	s.must(s.nl.RouteReplace(rival))
	s.must(s.nl.RouteAppend(wrong))
	if !s.news() {
		t.Error("it is no news")
	}
	_, err := s.keep()
	s.must(err)
	if diff := diffStates(s.want, s.read()); diff != "" {
		t.Errorf("-want +have:\n%s", diff)
	}
}

// An idle sync does not read the entries; ForceResync makes it.
func TestForceResyncReadsAgain(t *testing.T) {
	t.Parallel()
	s := newKept(t, families()[0], 1)
	s.settle()
	unreported := s.fdb(s.mac(), s.want.FDB[s.mac()].Host)
	s.must(s.nl.NeighDel(unreported))
	s.must(s.k.notices.Drain(func(rtnl.Notice) {})) // as if the kernel had reported nothing
	if changes, err := s.keep(); err != nil || len(changes) > 0 {
		t.Errorf("a sync without a reason read the entries: %v, %v", changes, err)
	}
	s.k.ForceResync()
	if changes, err := s.keep(); err != nil || len(changes) != 1 || changes[0].Verb != SetFDB {
		t.Errorf("after ForceResync: %v, %v", changes, err)
	}
}

// Sync mends everything even while somebody keeps disturbing the device, as a
// pod can by sending packets to the tunnel's port.
func TestSyncWhileOthersDisturb(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			s, _ := watched(t, f)
			defer s.disturb()()
			for range 20 {
				s.must(s.nl.NeighDel(s.fdb(s.mac(), s.want.FDB[s.mac()].Host)))
				changes, err := s.keep()
				if err != nil {
					t.Fatal(err)
				}
				if !slices.ContainsFunc(changes, func(o Op) bool { return o.Verb == SetFDB && o.MAC == s.mac() }) {
					t.Fatalf("the FDB entry is not mended: %s", changes)
				}
			}
		})
	}
}

// disturb has an unmanaged neighbour come and go, until stop.
func (s *kept) disturb() (stop func()) {
	n := s.neigh(netip.MustParseAddr("10.99.0.1"), strangeMAC)
	n.State = netlink.NUD_STALE
	stopped := make(chan struct{})
	var disturbing sync.WaitGroup
	disturbing.Go(func() {
		for {
			select {
			case <-stopped:
				return
			default:
			}
			_, _ = s.nl.NeighSet(n), s.nl.NeighDel(n) // a sync may be faster
		}
	})
	return func() { close(stopped); disturbing.Wait() }
}
