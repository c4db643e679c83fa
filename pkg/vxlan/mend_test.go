package vxlan

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// scene is a host with a device that is as it should be.
type scene struct {
	*host
	f    familyCase
	want State
}

// peer is one of the peers that every scene has.
func (s scene) subnet() netip.Prefix { return s.f.node(2).Subnets[0] }

func (s scene) mac() MAC { return vtepMAC(s.f.node(2)) }

// route is what Desired makes for a destination, to be altered.
func (s scene) route(dst netip.Prefix, next netip.Addr) *netlink.Route {
	return &netlink.Route{
		LinkIndex: s.index("overlay0"), Dst: ipNet(dst.String()), Gw: next.AsSlice(),
		Flags: int(netlink.FLAG_ONLINK), Protocol: netlink.RouteProtocol(protocol(dst)),
	}
}

func (s scene) neigh(ip netip.Addr, mac MAC) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: s.index("overlay0"), IP: ip.AsSlice(), HardwareAddr: mac[:], State: netlink.NUD_PERMANENT}
}

func (s scene) fdb(mac MAC, to netip.Addr) *netlink.Neigh {
	n := s.neigh(to, mac)
	n.Family, n.Flags = unix.AF_BRIDGE, netlink.NTF_SELF
	return n
}

// other is an address in the subnet's family that nothing of ours has.
func (s scene) other() netip.Addr {
	if s.subnet().Addr().Is4() {
		return netip.MustParseAddr("10.99.0.1")
	}
	return netip.MustParseAddr("fd99::1")
}

func (s scene) otherHost() netip.Addr {
	if s.want.Device.Tunnel.Local.Is4() {
		return netip.MustParseAddr("192.168.77.99")
	}
	return netip.MustParseAddr("fd77::99")
}

// exec uses the operations of rtnl on the scene's device.
func (s scene) exec(op Op) {
	s.t.Helper()
	_, err := s.k.apply([]Op{op}, s.index("overlay0"))
	s.must(err)
}

var strangeMAC = MAC{2, 0, 0, 0, 0, 99}

type fault struct {
	name string
	do   func(s scene)
}

// notice is a way in which the next sync comes to know of a fault.
type notice struct {
	name    string
	prepare func(*Kernel)
}

// notices are: the kernel told, or everything is read, as by a daemon that just
// started.
func notices() []notice {
	return []notice{{"told", func(*Kernel) {}}, {"read", (*Kernel).ForceResync}}
}

// mends checks, for each way in which a fault comes to be known, that Sync mends
// every fault on a host with the underlay of each family.
//
// A host has one fault after another, for each restores the state before it, and a
// namespace with a pair of interfaces takes the kernel longer than the test does.
func mends(t *testing.T, faults []fault, desired func(h *host, f familyCase) State) {
	t.Helper()
	for _, n := range notices() {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			eachFamily(t, func(t *testing.T, h *host, f familyCase) {
				for _, fault := range faults {
					t.Run(fault.name, func(t *testing.T) {
						h.t = t
						scene{h, f, desired(h, f)}.mends(fault, n)
					})
				}
			})
		})
	}
}

// mends causes a fault, and checks that Sync notices it and restores the state
// before.
func (s scene) mends(f fault, n notice) {
	s.t.Helper()
	s.sync(s.want)
	s.check(s.want)
	before := s.dump()
	f.do(s)
	n.prepare(s.k)
	changes := s.sync(s.want)
	if len(changes) == 0 {
		s.t.Fatal("the fault was not noticed")
	}
	s.t.Logf("changes: %s", changes)
	s.check(s.want)
	if diff := cmp.Diff(before, s.dump()); diff != "" {
		s.t.Errorf("before and after:\n%s", diff)
	}
}

func deviceFaults() []fault {
	overlay := func(s scene) netlink.Link { return s.link("overlay0") }
	return []fault{
		{"deleted", func(s scene) { s.must(s.nl.LinkDel(overlay(s))) }},
		{"set down", func(s scene) { s.must(s.nl.LinkSetDown(overlay(s))) }},
		{"renamed", func(s scene) {
			s.must(s.nl.LinkSetDown(overlay(s)))
			s.must(s.nl.LinkSetName(overlay(s), "mine"))
		}},
		{"recreated with another VNI", func(s scene) {
			s.must(s.nl.LinkDel(overlay(s)))
			s.must(s.nl.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "overlay0"}, VxlanId: 42, Port: 4789}))
		}},
		{"recreated with another port", func(s scene) {
			s.must(s.nl.LinkDel(overlay(s)))
			s.must(s.nl.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "overlay0"}, VxlanId: 1, Port: 8472}))
		}},
		{"recreated with a group", func(s scene) {
			group := map[bool]string{true: "239.1.1.1", false: "ff05::1"}[s.otherHost().Is4()]
			s.must(s.nl.LinkDel(overlay(s)))
			s.must(s.nl.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: "overlay0"}, VxlanId: 1, Port: 4789, UDPCSum: true,
				VtepDevIndex: s.index("eth0"), SrcAddr: s.want.Device.Tunnel.Local.AsSlice(),
				Group: netip.MustParseAddr(group).AsSlice(),
			}))
		}},
		{"MTU lowered", func(s scene) { s.must(s.nl.LinkSetMTU(overlay(s), 1300)) }},
		{"MTU below what IPv6 needs", func(s scene) { s.must(s.nl.LinkSetMTU(overlay(s), 1000)) }},
		{"MAC changed", func(s scene) { s.must(s.nl.LinkSetHardwareAddr(overlay(s), strangeMAC[:])) }},
		{"alias changed", func(s scene) { s.must(s.nl.LinkSetAlias(overlay(s), "something")) }},
		{"local address changed", func(s scene) {
			d := s.want.Device
			d.Tunnel.Local = s.otherHost()
			s.exec(Op{Verb: SetTunnel, Device: &d})
		}},
		{"underlay changed", func(s scene) {
			d := s.want.Device
			d.Tunnel.Underlay = s.index("far")
			s.exec(Op{Verb: SetTunnel, Device: &d})
		}},
		{"TTL changed", func(s scene) {
			d := s.want.Device
			d.Tunnel.TTL = 3
			s.exec(Op{Verb: SetTunnel, Device: &d})
		}},
		{"DF changed", func(s scene) {
			d := s.want.Device
			d.Tunnel.DF = tunnel.DFInherit
			s.exec(Op{Verb: SetTunnel, Device: &d})
		}},
		{"transmit checksum offload turned off", func(s scene) {
			d := s.want.Device
			d.TxChecksum = false
			s.exec(Op{Verb: SetTxChecksum, Device: &d})
		}},
		{"recreated with other source ports", func(s scene) {
			s.recreate(func(o *tunnel.Options) { o.SourcePorts = tunnel.PortRange{Low: 5000, High: 6000} })
		}},
		{"recreated without checksums", func(s scene) { s.recreate(func(o *tunnel.Options) { o.ZeroChecksum = true }) }},
		{"recreated with an inherited TTL", func(s scene) { s.recreate(func(o *tunnel.Options) { o.TTL = tunnel.InheritTTL }) }},
		{"recreated with learning on", func(s scene) {
			s.must(s.nl.LinkDel(overlay(s)))
			s.must(s.nl.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: "overlay0"}, VxlanId: 1, Port: 4789, UDPCSum: true, Learning: true,
				VtepDevIndex: s.index("eth0"), SrcAddr: s.want.Device.Tunnel.Local.AsSlice(),
			}))
		}},
		{"made a bridge's port", func(s scene) { s.must(s.nl.LinkSetMaster(overlay(s), s.link("other"))) }},
		{"ARP turned off", func(s scene) { s.must(s.nl.LinkSetARPOff(overlay(s))) }},
		{"multicast turned off", func(s scene) { s.must(s.nl.LinkSetMulticastOff(overlay(s))) }},
		{"carrier taken away", func(s scene) { s.setLink("overlay0", nl.NewRtAttr(39, []byte{1})) }}, // IFLA_PROTO_DOWN
		{"learning turned on", func(s scene) {
			s.setVXLAN(nl.NewRtAttr(nl.IFLA_VXLAN_LEARNING, []byte{1}))
		}},
		{"remote set", func(s scene) {
			typ := map[bool]int{true: nl.IFLA_VXLAN_GROUP, false: nl.IFLA_VXLAN_GROUP6}[s.otherHost().Is4()]
			s.setVXLAN(nl.NewRtAttr(typ, s.otherHost().AsSlice()))
		}},
		{"recreated with room for one peer", func(s scene) {
			s.must(s.nl.LinkDel(overlay(s)))
			s.must(s.nl.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: "overlay0"}, VxlanId: 1, Port: 4789, UDPCSum: true, Limit: 1,
				VtepDevIndex: s.index("eth0"), SrcAddr: s.want.Device.Tunnel.Local.AsSlice(),
			}))
		}},
		{"link-local addresses turned on", func(s scene) {
			s.in(func() error {
				return os.WriteFile("/proc/sys/net/ipv6/conf/overlay0/addr_gen_mode", []byte("0"), 0o644)
			})
		}},
		{"address deleted", func(s scene) {
			for p := range s.want.Addresses {
				s.must(s.nl.AddrDel(overlay(s), &netlink.Addr{IPNet: ipNet(p.String())}))
			}
		}},
		{"address with another prefix length", func(s scene) {
			for p := range s.want.Addresses {
				s.must(s.nl.AddrDel(overlay(s), &netlink.Addr{IPNet: ipNet(p.String())}))
				s.addAddr("overlay0", netip.PrefixFrom(p.Addr(), p.Bits()-8).String())
			}
		}},
		{"address with a peer", func(s scene) {
			for p := range s.want.Addresses {
				s.must(s.nl.AddrDel(overlay(s), &netlink.Addr{IPNet: ipNet(p.String())}))
				peer := ipNet(subnet.Host(s.other()).String())
				if (peer.IP.To4() != nil) == p.Addr().Is4() {
					s.must(s.nl.AddrAdd(overlay(s), &netlink.Addr{IPNet: ipNet(p.String()), Peer: peer, Flags: unix.IFA_F_NODAD}))
				}
			}
		}},
		{"foreign addresses", func(s scene) {
			s.addAddr("overlay0", "10.98.0.1/24")
			s.addAddr("overlay0", "fd98::1/64")
		}},
		{"foreign address with a peer", func(s scene) {
			s.must(s.nl.AddrAdd(overlay(s), &netlink.Addr{IPNet: ipNet("10.98.0.1/32"), Peer: ipNet("10.98.0.2/32")}))
		}},
	}
}

// setLink sets an attribute of a link for which netlink has no function.
func (s scene) setLink(name string, attr *nl.RtAttr) {
	s.t.Helper()
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(s.index(name))
	req.AddData(msg)
	req.AddData(attr)
	s.in(func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// setVXLAN sets an option of the device, as "ip link set overlay0 type vxlan" does.
func (s scene) setVXLAN(option *nl.RtAttr) {
	s.t.Helper()
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("vxlan"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(s.want.Device.Tunnel.VNI))
	data.AddChild(option)
	s.setLink("overlay0", info)
}

// recreate makes the device anew, with other options.
func (s scene) recreate(alter func(*tunnel.Options)) {
	s.t.Helper()
	d := s.want.Device
	alter(&d.Tunnel.Options)
	s.must(s.nl.LinkDel(s.link("overlay0")))
	_, err := s.k.apply([]Op{{Verb: CreateDevice, Device: &d}}, 0)
	s.must(err)
}

func routeFaults() []fault {
	change := func(alter func(*netlink.Route)) func(s scene) {
		return func(s scene) {
			r := s.route(s.subnet(), via(s.subnet()))
			alter(r)
			s.must(s.nl.RouteReplace(r))
		}
	}
	return []fault{
		{"route deleted", func(s scene) { s.must(s.nl.RouteDel(s.route(s.subnet(), via(s.subnet())))) }},
		{"route to another VTEP", func(s scene) { s.must(s.nl.RouteReplace(s.route(s.subnet(), via(s.f.node(3).Subnets[0])))) }},
		{"route of another protocol", change(func(r *netlink.Route) { r.Protocol = unix.RTPROT_STATIC })},
		{"route with an MTU", change(func(r *netlink.Route) { r.MTU = 600 })},
		{"route beside ours with a metric", change(func(r *netlink.Route) { r.Priority = 5 })},
		{"route of another table", change(func(r *netlink.Route) { r.Table = 100 })},
		{"second next hop beside ours", func(s scene) {
			s.must(s.nl.RouteAppend(s.route(s.subnet(), s.other())))
		}},
		{"foreign route in front of ours", func(s scene) {
			r := s.route(s.subnet(), via(s.subnet()))
			s.must(s.nl.RouteReplace(s.route(s.subnet(), s.other())))
			s.must(s.nl.RouteAppend(r))
		}},
		{"route not onlink", func(s scene) {
			next := via(s.subnet())
			link := s.route(subnet.Host(next), netip.Addr{})
			link.Flags, link.Gw = 0, nil
			if next.Is4() {
				link.Scope = netlink.SCOPE_LINK
			}
			s.must(s.nl.RouteAdd(link))
			r := s.route(s.subnet(), next)
			r.Flags = 0
			s.must(s.nl.RouteReplace(r))
			s.must(s.nl.RouteDel(link))
		}},
		{"foreign multipath route in place of ours", change(func(r *netlink.Route) { multipath(r) })},
		{"foreign multipath route", func(s scene) {
			r := s.route(subnet.Host(s.other()), via(s.subnet()))
			multipath(r)
			s.must(s.nl.RouteAdd(r))
		}},
		{"foreign multipath route over our device and another", func(s scene) {
			r := s.route(subnet.Host(s.other()), via(s.subnet()))
			multipath(r)
			next := map[bool]string{true: "192.168.77.77", false: "fd77::77"}[s.other().Is4()]
			r.MultiPath[1].LinkIndex, r.MultiPath[1].Gw = s.index("eth0"), netip.MustParseAddr(next).AsSlice()
			s.must(s.nl.RouteAdd(r))
		}},
		{"route with a TOS", change(func(r *netlink.Route) {
			if r.Gw.To4() != nil {
				r.Tos = 0x10
			} else {
				r.Priority = 7 // IPv6 routes have no TOS
			}
		})},
		{"route with a nexthop object in place of ours", func(s scene) { s.setNextHopObject(s.subnet()) }},
		{"foreign route with a nexthop object", func(s scene) { s.setNextHopObject(subnet.Host(s.other())) }},
		{"foreign route", func(s scene) {
			dst := netip.PrefixFrom(s.other(), s.other().BitLen())
			s.must(s.nl.RouteAdd(s.route(dst, s.other())))
		}},
		{"foreign route of the local table", change(func(r *netlink.Route) {
			r.Table, r.Type, r.Gw, r.Flags, r.Scope = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL, nil, 0, netlink.SCOPE_HOST
			if r.Dst.IP.To4() == nil {
				r.Scope = 0
			}
		})},
		{"routes flushed", func(s scene) {
			for p := range s.want.Routes {
				s.must(s.nl.RouteDel(s.route(p, via(p))))
			}
		}},
	}
}

// multipath gives a route a second next hop, 77 in the last place.
func multipath(r *netlink.Route) {
	hop := func(gw net.IP) *netlink.NexthopInfo {
		return &netlink.NexthopInfo{LinkIndex: r.LinkIndex, Gw: gw, Flags: int(netlink.FLAG_ONLINK)}
	}
	r.MultiPath = []*netlink.NexthopInfo{hop(r.Gw), hop(slices.Clone(r.Gw))}
	r.MultiPath[1].Gw[len(r.Gw)-1] = 77
	r.Gw, r.LinkIndex, r.Flags = nil, 0, 0
}

// setNextHopObject routes to dst by a nexthop object, which the library can't:
// ip nexthop add id 7 via VTEP dev overlay0 onlink; ip route replace DST nhid 7.
func (s scene) setNextHopObject(dst netip.Prefix) {
	s.t.Helper()
	const (
		newNextHop                    = 104     // RTM_NEWNEXTHOP
		nhaID, nhaOIF, nhaGateway     = 1, 5, 6 // NHA_*
		replace                   int = unix.NLM_F_ACK | unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	)
	family := map[bool]byte{true: unix.AF_INET, false: unix.AF_INET6}[dst.Addr().Is4()]
	hop := nl.NewNetlinkRequest(newNextHop, replace)
	hop.AddData(header{family, 0, 0, 0, unix.RTNH_F_ONLINK, 0, 0, 0}) // struct nhmsg
	hop.AddData(nl.NewRtAttr(nhaID, nl.Uint32Attr(7)))
	hop.AddData(nl.NewRtAttr(nhaOIF, nl.Uint32Attr(uint32(s.index("overlay0")))))
	hop.AddData(nl.NewRtAttr(nhaGateway, via(s.subnet()).AsSlice()))
	route := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, replace)
	route.AddData(header{family, byte(dst.Bits()), 0, 0, unix.RT_TABLE_MAIN, protocol(dst), 0, unix.RTN_UNICAST, 0, 0, 0, 0})
	route.AddData(nl.NewRtAttr(unix.RTA_DST, dst.Addr().AsSlice()))
	route.AddData(nl.NewRtAttr(30, nl.Uint32Attr(7))) // RTA_NH_ID
	s.in(func() error {
		for _, req := range []*nl.NetlinkRequest{hop, route} {
			if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// header is the first part of a netlink message.
type header []byte

func (h header) Len() int { return len(h) }

func (h header) Serialize() []byte { return h }

func neighborFaults() []fault {
	return []fault{
		{"neighbour deleted", func(s scene) { s.must(s.nl.NeighDel(s.neigh(via(s.subnet()), s.mac()))) }},
		{"neighbour altered", func(s scene) { s.must(s.nl.NeighSet(s.neigh(via(s.subnet()), strangeMAC))) }},
		{"neighbour not permanent", func(s scene) {
			n := s.neigh(via(s.subnet()), s.mac())
			n.State = netlink.NUD_STALE
			s.must(s.nl.NeighSet(n))
		}},
		{"foreign neighbour", func(s scene) { s.must(s.nl.NeighSet(s.neigh(s.other(), strangeMAC))) }},
		{"foreign neighbour that never expires", func(s scene) {
			n := s.neigh(s.other(), s.mac())
			n.State = netlink.NUD_NOARP
			s.must(s.nl.NeighSet(n))
		}},
		{"neighbours flushed", func(s scene) {
			for ip, n := range s.want.Neighbors {
				s.must(s.nl.NeighDel(s.neigh(ip, n.MAC)))
			}
		}},
	}
}

func fdbFaults() []fault {
	return []fault{
		{"FDB entry deleted", func(s scene) { s.must(s.nl.NeighDel(s.fdb(s.mac(), s.want.FDB[s.mac()].Host))) }},
		{"FDB entry altered", func(s scene) { s.must(s.nl.NeighSet(s.fdb(s.mac(), s.otherHost()))) }},
		{"FDB entry not permanent", func(s scene) {
			n := s.fdb(s.mac(), s.want.FDB[s.mac()].Host)
			n.State = netlink.NUD_REACHABLE
			s.must(s.nl.NeighSet(n))
		}},
		{"foreign FDB entry", func(s scene) { s.must(s.nl.NeighSet(s.fdb(strangeMAC, s.otherHost()))) }},
		{"foreign FDB entry with a port", func(s scene) { s.setPort(strangeMAC) }},
		{"our FDB entry with a port", func(s scene) { s.setPort(s.mac()) }},
		{"FDB entry for all the rest", func(s scene) { s.must(s.nl.NeighAppend(s.fdb(MAC{}, s.otherHost()))) }},
		{"FDB entries for a multicast address", func(s scene) {
			group := MAC{1, 0, 0x5e, 0, 0, 1}
			s.must(s.nl.NeighAppend(s.fdb(group, s.otherHost())))
			s.must(s.nl.NeighAppend(s.fdb(group, s.want.FDB[s.mac()].Host)))
		}},
		{"FDB entries flushed", func(s scene) {
			for mac, f := range s.want.FDB {
				s.must(s.nl.NeighDel(s.fdb(mac, f.Host)))
			}
		}},
	}
}

// setPort makes a FDB entry to a port of its own, which the library
// can't: bridge fdb replace MAC dev overlay0 dst HOST port 1234.
func (s scene) setPort(mac MAC) {
	s.t.Helper()
	req := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	req.AddData(&netlink.Ndmsg{
		Family: unix.AF_BRIDGE, Index: uint32(s.index("overlay0")), State: unix.NUD_PERMANENT, Flags: unix.NTF_SELF,
	})
	req.AddData(nl.NewRtAttr(unix.NDA_DST, s.otherHost().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.NDA_LLADDR, mac[:]))
	req.AddData(nl.NewRtAttr(unix.NDA_PORT, []byte{4, 210}))
	s.in(func() error {
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

func TestSyncMends(t *testing.T) {
	t.Parallel()
	faults := slices.Concat(deviceFaults(), routeFaults(), neighborFaults(), fdbFaults())
	mends(t, faults, func(h *host, f familyCase) State {
		if _, err := h.nl.LinkByName("other"); err != nil {
			h.must(h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{
				Name: "other", Flags: net.FlagUp, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 98},
			}}))
		}
		want := h.want(f.underlay, f.node(1), f.nodes(1, 2, 3, 4)...)
		want.Device.Claimed = true
		return want
	})
}

// What the kernel itself makes on the device, and everything on other devices,
// is none of our business.
func TestSyncLeavesTheRest(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		want := h.want(f.underlay, f.node(1), f.nodes(2)...)
		h.sync(want)
		h.must(h.nl.RouteAdd(&netlink.Route{LinkIndex: h.index("eth0"), Dst: ipNet("10.97.0.0/16"), Scope: netlink.SCOPE_LINK}))
		h.must(h.nl.RouteAdd(&netlink.Route{LinkIndex: h.index("eth0"), Dst: ipNet("fd97::/64")}))
		h.must(h.nl.NeighSet(&netlink.Neigh{
			LinkIndex: h.index("eth0"), IP: net.ParseIP("192.168.77.50"), HardwareAddr: strangeMAC[:], State: netlink.NUD_PERMANENT,
		}))
		before := h.dump()
		// The kernel's own attempts to resolve an address.
		h.must(h.nl.NeighSet(&netlink.Neigh{LinkIndex: h.index("overlay0"), IP: net.ParseIP("10.96.0.1"), State: netlink.NUD_INCOMPLETE}))
		h.must(h.nl.NeighSet(&netlink.Neigh{LinkIndex: h.index("overlay0"), IP: net.ParseIP("fd96::1"), State: netlink.NUD_INCOMPLETE}))
		h.check(want)
		h.must(h.nl.LinkSetMTU(h.link("overlay0"), 1300))
		h.sync(want)
		if after := h.dump(); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	})
}
