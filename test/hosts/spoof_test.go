package hosts

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
)

// station is who sends or is sent to, on a bridge.
type station struct {
	mac      mac
	ip4, ip6 netip.Addr
}

func (s station) linkLocal() netip.Addr { return s.mac.linkLocal() }

// neighbours are a pod that lies, the pod that it lies about, and their gateway.
type neighbours struct {
	liar, victim, gateway station
	// to is the MAC address of whoever is to get the lie.
	to mac
}

var (
	outside4, outside6 = netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")
	none4, none6       = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	allNodes           = netip.MustParseAddr("ff02::1")
	allRouters         = netip.MustParseAddr("ff02::2")
	mldRouters         = netip.MustParseAddr("ff02::16")
	nobody             = mac{2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee} // nobody has this one
)

func (n neighbours) frame(typ uint16, payload []byte) []byte {
	return ether(n.to, n.liar.mac, typ, payload)
}

func (n neighbours) v4(packet []byte) []byte { return n.frame(unix.ETH_P_IP, packet) }
func (n neighbours) v6(packet []byte) []byte { return n.frame(unix.ETH_P_IPV6, packet) }

func (n neighbours) udp4(src netip.Addr) []byte {
	return n.v4(udp(src, n.gateway.ip4, 4000, 4001, "lie"))
}

func (n neighbours) udp6(src netip.Addr) []byte {
	return n.v6(udp(src, n.gateway.ip6, 4000, 4001, "lie"))
}

// discovery is a message of neighbour discovery from the liar's own address.
func (n neighbours) discovery(typ byte, body []byte) []byte {
	return n.v6(icmp6(n.liar.ip6, n.gateway.ip6, typ, body))
}

func (n neighbours) arp(op byte, sender mac, ip netip.Addr) []byte {
	return n.frame(unix.ETH_P_ARP, arp(op, sender, ip, n.gateway.ip4))
}

// lies are what a pod must not be able to send.
func (n neighbours) lies() map[string][]byte {
	l, v, g := n.liar, n.victim, n.gateway
	own4, own6 := udp(l.ip4, g.ip4, 4000, 4001, "lie"), udp(l.ip6, g.ip6, 4000, 4001, "lie")
	advert := icmp6Message(l.ip6, g.ip6, advertNA, targeted(v.ip6, option(targetMAC, l.mac)))
	return map[string][]byte{
		"IPv4 of another pod":       n.udp4(v.ip4),
		"IPv4 of the gateway":       n.udp4(g.ip4),
		"IPv4 of somebody outside":  n.udp4(outside4),
		"IPv4 without a source":     n.udp4(none4),
		"IPv6 of another pod":       n.udp6(v.ip6),
		"IPv6 of the gateway":       n.udp6(g.ip6),
		"IPv6 of somebody outside":  n.udp6(outside6),
		"IPv6 without a source":     n.udp6(none6),
		"link-local of another pod": n.udp6(v.linkLocal()),
		"link-local of the gateway": n.udp6(netip.MustParseAddr("fe80::1")),
		"link-local, odd":           n.udp6(netip.MustParseAddr("fe80:1::9")),

		"MAC of another pod, IPv4":         ether(n.to, v.mac, unix.ETH_P_IP, own4),
		"MAC of another pod, IPv6":         ether(n.to, v.mac, unix.ETH_P_IPV6, own6),
		"MAC and addresses of another pod": ether(n.to, v.mac, unix.ETH_P_IP, udp(v.ip4, g.ip4, 4000, 4001, "lie")),
		"MAC of another pod, ARP":          ether(n.to, v.mac, unix.ETH_P_ARP, arp(arpRequest, l.mac, l.ip4, g.ip4)),
		"MAC of the gateway":               ether(n.to, g.mac, unix.ETH_P_IP, own4),

		"ARP reply for another pod":         n.arp(arpReply, l.mac, v.ip4),
		"ARP reply for the gateway":         n.arp(arpReply, l.mac, g.ip4),
		"ARP request as another pod":        n.arp(arpRequest, l.mac, v.ip4),
		"ARP as another pod, MAC too":       n.arp(arpReply, v.mac, v.ip4),
		"ARP with another pod's MAC":        n.arp(arpReply, v.mac, l.ip4),
		"ARP with the gateway's MAC":        n.arp(arpReply, g.mac, l.ip4),
		"ARP for IEEE 802, for another pod": n.frame(unix.ETH_P_ARP, append([]byte{0, 6}, arp(arpReply, l.mac, v.ip4, g.ip4)[2:]...)),

		"advertisement for another pod":          n.discovery(advertNA, targeted(v.ip6, option(targetMAC, l.mac))),
		"advertisement for the gateway":          n.discovery(advertNA, targeted(g.ip6, option(targetMAC, l.mac))),
		"advertisement for a link-local":         n.discovery(advertNA, targeted(v.linkLocal(), option(targetMAC, l.mac))),
		"advertisement with another's MAC":       n.discovery(advertNA, targeted(l.ip6, option(targetMAC, v.mac))),
		"advertisement with two options":         n.discovery(advertNA, targeted(l.ip6, option(nonceOption, nobody), option(targetMAC, v.mac))),
		"advertisement behind another header":    n.v6(ip(l.ip6, g.ip6, unix.IPPROTO_DSTOPTS, append([]byte{unix.IPPROTO_ICMPV6, 0, 1, 4, 0, 0, 0, 0}, advert...))),
		"solicitation with another's MAC":        n.discovery(solicitNS, targeted(g.ip6, option(sourceOption, v.mac))),
		"solicitation as another pod":            n.v6(icmp6(v.ip6, g.ip6, solicitNS, targeted(g.ip6, option(sourceOption, l.mac)))),
		"duplicate detection for another pod":    n.v6(icmp6(none6, allNodes, solicitNS, targeted(v.ip6))),
		"router solicitation with another's MAC": n.discovery(solicitRS, slices.Concat(make([]byte, 4), option(sourceOption, v.mac))),
		"router advertisement":                   n.v6(icmp6(l.linkLocal(), allNodes, advertRA, slices.Concat([]byte{64, 0, 7, 8}, make([]byte, 8)))),
		"router advertisement in fragments": n.v6(ip(l.linkLocal(), allNodes, unix.IPPROTO_FRAGMENT,
			slices.Concat([]byte{unix.IPPROTO_DSTOPTS, 0, 0, 1, 0, 0, 0, 9}, []byte{unix.IPPROTO_ICMPV6, 1, 1, 4, 0, 0, 0, 0}))),
		"redirect, IPv6":   n.v6(icmp6(l.linkLocal(), g.ip6, redirect6, targeted(l.ip6, v.ip6.AsSlice()))),
		"redirect, IPv4":   n.v4(ip(l.ip4, g.ip4, unix.IPPROTO_ICMP, icmpRedirect(l.ip4, own4))),
		"DHCP offer":       n.v4(udp(l.ip4, g.ip4, 67, 68, "offer")),
		"DHCPv6 advertise": n.v6(udp(l.linkLocal(), allNodes, 547, 546, "advertise")),

		"VLAN tag, IPv4 of another pod": tagged(unix.ETH_P_8021Q, 7, n.udp4(v.ip4)),
		"VLAN tag 0, IPv4 of another":   tagged(unix.ETH_P_8021Q, 0, n.udp4(v.ip4)),
		"VLAN tag, own address":         tagged(unix.ETH_P_8021Q, 7, n.v4(own4)),
		"provider's tag":                tagged(unix.ETH_P_8021AD, 7, n.udp6(v.ip6)),
		"two tags":                      tagged(unix.ETH_P_8021AD, 7, tagged(unix.ETH_P_8021Q, 8, n.udp4(v.ip4))),
		"another protocol":              n.frame(0x88b5, udp(v.ip4, g.ip4, 4000, 4001, "lie")),
		notForNetfilter:                 n.frame(unix.ETH_P_IPV6, udp(v.ip4, g.ip4, 4000, 4001, "lie")),
		"IPv4 in SNAP":                  n.frame(60, slices.Concat([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, udp(v.ip4, g.ip4, 4000, 4001, "lie"))),
		"reverse ARP":                   n.frame(0x8035, arp(3, l.mac, v.ip4, g.ip4)),
	}
}

// icmpRedirect tells of a gateway for what a packet goes to.
func icmpRedirect(gateway netip.Addr, packet []byte) []byte {
	b := slices.Concat([]byte{5, 1, 0, 0}, gateway.AsSlice(), packet[:28])
	sum := checksum(b)
	b[2], b[3] = byte(sum>>8), byte(sum)
	return b
}

// truths are what a pod needs to send.
func (n neighbours) truths() map[string][]byte {
	l, g := n.liar, n.gateway
	report := func(src netip.Addr) []byte {
		message := icmp6Message(src, mldRouters, mld2, slices.Concat([]byte{0, 0, 0, 1, 4, 0, 0, 0}, netip.MustParseAddr("ff02::1:ff00:2").AsSlice()))
		hopByHop := []byte{unix.IPPROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0} // router alert
		return n.v6(ip(src, mldRouters, unix.IPPROTO_HOPOPTS, append(hopByHop, message...)))
	}
	unknownLinkLocal := netip.MustParseAddr("fe80::1234:5678:9abc:def0")
	return map[string][]byte{
		"IPv4":                         n.udp4(l.ip4),
		"IPv6":                         n.udp6(l.ip6),
		"link-local":                   n.udp6(l.linkLocal()),
		"stable-privacy link-local":    n.udp6(unknownLinkLocal),
		"a MAC that tuning set":        ether(n.to, nobody, unix.ETH_P_IP, udp(l.ip4, g.ip4, 4000, 4001, "truth")),
		"ARP with that MAC":            ether(n.to, nobody, unix.ETH_P_ARP, arp(arpReply, nobody, l.ip4, g.ip4)),
		"advertisement with that MAC":  ether(n.to, nobody, unix.ETH_P_IPV6, icmp6(l.ip6, g.ip6, advertNA, targeted(l.ip6, option(targetMAC, nobody)))),
		"ARP reply":                    n.arp(arpReply, l.mac, l.ip4),
		"gratuitous ARP":               n.frame(unix.ETH_P_ARP, arp(arpRequest, l.mac, l.ip4, l.ip4)),
		"ARP probe":                    n.frame(unix.ETH_P_ARP, arp(arpRequest, l.mac, none4, l.ip4)),
		"advertisement":                n.discovery(advertNA, targeted(l.ip6, option(targetMAC, l.mac))),
		"advertisement without option": n.discovery(advertNA, targeted(l.ip6)),
		"advertisement of a link-local": n.v6(icmp6(l.linkLocal(), allNodes, advertNA,
			targeted(l.linkLocal(), option(targetMAC, l.mac)))),
		"solicitation":                n.discovery(solicitNS, targeted(g.ip6, option(sourceOption, l.mac))),
		"solicitation of another pod": n.discovery(solicitNS, targeted(n.victim.ip6, option(sourceOption, l.mac))),
		"duplicate detection":         n.v6(icmp6(none6, allNodes, solicitNS, targeted(l.ip6))),
		"the same with a nonce":       n.v6(icmp6(none6, allNodes, solicitNS, targeted(l.ip6, option(nonceOption, nobody)))),
		"the same of a link-local":    n.v6(icmp6(none6, allNodes, solicitNS, targeted(unknownLinkLocal))),
		"router solicitation":         n.v6(icmp6(l.linkLocal(), allRouters, solicitRS, slices.Concat(make([]byte, 4), option(sourceOption, l.mac)))),
		"the same without option":     n.v6(icmp6(none6, allRouters, solicitRS, make([]byte, 4))),
		"multicast report":            report(l.linkLocal()),
		"multicast report from ::":    report(none6),
		"IGMP":                        n.v4(ip(l.ip4, netip.MustParseAddr("224.0.0.22"), unix.IPPROTO_IGMP, []byte{0x22, 0, 0xf9, 2, 0, 0, 0, 1, 4, 0, 0, 0, 224, 0, 0, 251})),
		"multicast, IPv4":             n.v4(udp(l.ip4, netip.MustParseAddr("224.0.0.251"), 5353, 5353, "query")),
		"multicast, IPv6":             n.v6(udp(l.ip6, netip.MustParseAddr("ff02::fb"), 5353, 5353, "query")),
		"DHCP to a server":            n.v4(udp(l.ip4, g.ip4, 68, 67, "request")),
		"ping":                        n.v6(icmp6(l.ip6, g.ip6, 128, []byte{0, 1, 0, 1, 'h', 'i'})),
		"a later fragment":            n.v4(fragment(udp(l.ip4, g.ip4, 68, 68, "looks like an answer of DHCP"))),
		"a later fragment, IPv6": n.v6(ip(l.ip6, g.ip6, unix.IPPROTO_FRAGMENT,
			[]byte{unix.IPPROTO_ICMPV6, 0, 0, 8, 0, 0, 0, 9, advertRA, 0, 0, 0, 0, 0, 0, 0})),
	}
}

// spoofed is a host with pods: one is guarded, one is exempt, one is lied about, and
// one is lied to.
type spoofed struct {
	p                         *pluginHost
	guarded, exempt, listener *sandbox.Netns
	guardedAt, exemptAt       station
	victim                    *sandbox.Netns
	victimAt, listenerAt      station
	gateway                   station
}

func newSpoofed(t *testing.T, n netfilter) *spoofed {
	t.Helper()
	s := &spoofed{p: newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")}
	n.set(t, s.p)
	add := func(id string, conf []byte) (*sandbox.Netns, station) {
		ns := sandboxtest.NewNetns(t)
		out, cniErr := s.p.run(t, invocation{command: "ADD", id: id, netns: ns.Path(), stdin: conf})
		if cniErr != nil {
			t.Fatal(cniErr)
		}
		return ns, stationOf(t, out)
	}
	s.guarded, s.guardedAt = add("guarded", nil)
	s.exempt, s.exemptAt = add("exempt", s.p.with(map[string]any{"antiSpoofing": false}))
	s.victim, s.victimAt = add("victim", nil)
	s.listener, s.listenerAt = add("listener", nil)
	bridge, err := s.p.host.Handle().LinkByName("cni0")
	if err != nil {
		t.Fatal(err)
	}
	s.gateway = station{macOf(bridge.Attrs().HardwareAddr), netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:244:1::1")}
	return s
}

func stationOf(t *testing.T, out string) station {
	t.Helper()
	var r types100.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	m, err := net.ParseMAC(r.Interfaces[len(r.Interfaces)-1].Mac)
	if err != nil {
		t.Fatal(err)
	}
	return station{macOf(m), addrOf(r.IPs[0].Address.IP), addrOf(r.IPs[1].Address.IP)}
}

// notForNetfilter is the lie that br_netfilter drops by itself.
const notForNetfilter = "IPv4 that calls itself IPv6"

// TestPodsCannotLie sends each lie from a pod that is guarded, where it must not
// arrive, and from one that is exempt, where it must: so the test can fail.
func TestPodsCannotLie(t *testing.T) {
	t.Parallel()
	for _, n := range netfilters(t) {
		t.Run(n.name, func(t *testing.T) {
			s := newSpoofed(t, n)
			targets := map[string]struct {
				tap tap
				mac mac
			}{"the host": {newTap(t, s.p.host.Netns(), "cni0"), s.gateway.mac}}
			if n.on { // else the bridge forwards nothing between pods
				targets["another pod"] = struct {
					tap tap
					mac mac
				}{newTap(t, s.listener, "eth0"), s.listenerAt.mac}
			}
			for name, target := range targets {
				guarded := liar{newTap(t, s.guarded, "eth0"), neighbours{s.guardedAt, s.victimAt, s.gateway, target.mac}, 0}
				exempt := liar{newTap(t, s.exempt, "eth0"), neighbours{s.exemptAt, s.victimAt, s.gateway, target.mac}, 0}
				for what := range guarded.lies() {
					if guarded.tells(t, target.tap, guarded.lies()[what]) {
						t.Errorf("%s: %s: arrives", name, what)
					}
					dropped := n.on && what == notForNetfilter
					if !exempt.tells(t, target.tap, exempt.lies()[what]) && !dropped {
						t.Errorf("%s: %s: doesn't arrive from an exempt pod either, so this tests nothing", name, what)
					}
				}
				for what, frame := range guarded.truths() {
					if !guarded.tells(t, target.tap, frame) {
						t.Errorf("%s: %s: doesn't arrive", name, what)
					}
				}
			}
		})
	}
}

// liar is a pod that sends frames of its own making.
type liar struct {
	tap tap
	neighbours
	fences int
}

// tells sends a frame and reports whether it arrives. It sends a fence behind it, a
// frame that is true and different each time.
func (l *liar) tells(t *testing.T, at tap, frame []byte) bool {
	t.Helper()
	l.fences++
	fence := l.v4(udp(l.liar.ip4, l.gateway.ip4, 5000, 5001, fmt.Sprintf("fence number %d of this pod", l.fences)))
	l.tap.send(t, frame, fence)
	return at.sees(t, frame, fence)
}

// TestNoFrameTakesOverAnotherPodsMAC: the bridge learns from every frame that it sees.
// It learns from frames to reserved destinations at another place than from others.
func TestNoFrameTakesOverAnotherPodsMAC(t *testing.T) {
	t.Parallel()
	s := newSpoofed(t, netfilter{})
	host := newTap(t, s.p.host.Netns(), "cni0")
	guarded := liar{newTap(t, s.guarded, "eth0"), neighbours{s.guardedAt, s.victimAt, s.gateway, s.gateway.mac}, 0}
	exempt := liar{newTap(t, s.exempt, "eth0"), neighbours{s.exemptAt, s.victimAt, s.gateway, s.gateway.mac}, 0}
	victim := liar{newTap(t, s.victim, "eth0"), neighbours{s.victimAt, s.guardedAt, s.gateway, s.gateway.mac}, 0}
	learned := func(l *liar, to mac) string {
		if !victim.tells(t, host, victim.udp4(s.victimAt.ip4)) {
			t.Fatal("the victim reaches nobody")
		}
		l.tells(t, host, ether(to, s.victimAt.mac, unix.ETH_P_IP, udp(s.victimAt.ip4, s.gateway.ip4, 4000, 4001, "lie")))
		return s.portOf(t, s.victimAt.mac)
	}
	for name, to := range map[string]mac{
		"to the gateway": s.gateway.mac,
		"to all":         {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"to nobody":      nobody,
		"spanning tree":  {1, 0x80, 0xc2, 0, 0, 0},
		"slow protocols": {1, 0x80, 0xc2, 0, 0, 2},
		"LLDP":           {1, 0x80, 0xc2, 0, 0, 0xe},
	} {
		if port := learned(&guarded, to); port != hostName("victim") {
			t.Errorf("%s: a guarded pod's frame moved another pod's MAC address to %s", name, port)
		}
		if port := learned(&exempt, to); port != hostName("exempt") {
			t.Errorf("%s: an exempt pod's frame left another pod's MAC address at %s, so this tests nothing", name, port)
		}
	}
}

func hostName(id string) string {
	return attachment.Owner{ContainerID: id, IfName: "eth0"}.Key().HostName()
}

// portOf is the port to which the bridge sends frames for a MAC address.
func (s *spoofed) portOf(t *testing.T, m mac) string {
	t.Helper()
	h := s.p.host.Handle()
	entries, err := h.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if macOf(e.HardwareAddr) != m {
			continue
		}
		link, err := h.LinkByIndex(e.LinkIndex)
		if err != nil {
			t.Fatal(err)
		}
		return link.Attrs().Name
	}
	return ""
}

// TestNoPodTakesOverAnAddress: what the host knows of a pod's address stays, whatever
// another pod says of it.
func TestNoPodTakesOverAnAddress(t *testing.T) {
	t.Parallel()
	s := newSpoofed(t, netfilter{})
	ctx := withPatience(t)
	host := newTap(t, s.p.host.Netns(), "cni0")
	for _, who := range []struct {
		liar  liar
		moves bool
	}{
		{liar{newTap(t, s.guarded, "eth0"), neighbours{s.guardedAt, s.victimAt, s.gateway, s.gateway.mac}, 0}, false},
		{liar{newTap(t, s.exempt, "eth0"), neighbours{s.exemptAt, s.victimAt, s.gateway, s.gateway.mac}, 0}, true},
	} {
		l := who.liar
		for addr, lie := range map[netip.Addr][]byte{
			// Gratuitous: it wins over an entry that is less than a second old.
			s.victimAt.ip4: l.frame(unix.ETH_P_ARP, arp(arpRequest, l.liar.mac, s.victimAt.ip4, s.victimAt.ip4)),
			s.victimAt.ip6: l.discovery(advertNA, targeted(s.victimAt.ip6, option(targetMAC, l.liar.mac))),
		} {
			if err := reach(ctx, t, s.p.host.Netns(), addr); err != nil {
				t.Fatal(err)
			}
			l.tells(t, host, lie)
			want := s.victimAt.mac
			if who.moves {
				want = l.liar.mac
			}
			if got := neighbourOf(t, s.p, addr); got != want {
				t.Errorf("exempt %t: the host sends packets for %s to %x, want %x", who.moves, addr, got, want)
			}
		}
	}
}

// neighbourOf is the MAC address to which the host sends packets for a pod.
func neighbourOf(t *testing.T, p *pluginHost, a netip.Addr) mac {
	t.Helper()
	entries, err := p.host.Handle().NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if addrOf(e.IP) == a && len(e.HardwareAddr) == 6 {
			return macOf(e.HardwareAddr)
		}
	}
	return mac{}
}

// TestAddressWithAnotherMACIsReachableAtOnce: what the host remembers of an address
// doesn't outlive the pod that had it.
func TestAddressWithAnotherMACIsReachableAtOnce(t *testing.T) {
	t.Parallel()
	for how, set := range map[string]func(m mac, p *pluginHost) invocation{
		"the capability mac": func(m mac, p *pluginHost) invocation {
			return invocation{stdin: p.with(map[string]any{"runtimeConfig": map[string]any{"mac": net.HardwareAddr(m[:]).String()}})}
		},
		"CNI_ARGS": func(m mac, _ *pluginHost) invocation {
			return invocation{args: "MAC=" + net.HardwareAddr(m[:]).String()}
		},
		"a later plugin": func(mac, *pluginHost) invocation { return invocation{} },
	} {
		t.Run(how, func(t *testing.T) {
			p := newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")
			addrs := []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:244:1::7")}
			other, _ := p.add(t, "other")
			for i := range byte(3) {
				want := mac{2, 0, 0, 0, 7, i}
				call := set(want, p)
				ns := sandboxtest.NewNetns(t)
				call.command, call.netns, call.id = "ADD", ns.Path(), fmt.Sprint("pod", i)
				call.args += ";IP=" + joined(addrs, ",")
				if _, cniErr := p.run(t, call); cniErr != nil {
					t.Fatal(cniErr)
				}
				if how == "a later plugin" { // as tuning does
					h := netlinkIn(t, ns)
					link, err := h.LinkByName("eth0")
					if err == nil {
						err = h.LinkSetHardwareAddr(link, want[:])
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				for _, a := range addrs {
					for _, from := range []*sandbox.Netns{p.host.Netns(), other} {
						begun := time.Now()
						if err := reach(withPatience(t), t, from, a); err != nil {
							t.Error(err)
						}
						// An old entry lasts 38 s.
						if took := time.Since(begun); took > 10*time.Second {
							t.Errorf("%s was reachable after %s", a, took)
						}
					}
					if got := neighbourOf(t, p, a); got != want {
						t.Errorf("the host sends packets for %s to %x, want %x", a, got, want)
					}
				}
				p.del(t, call.id)
				for _, a := range addrs {
					if got := neighbourOf(t, p, a); got != (mac{}) {
						t.Errorf("after DEL the host sends packets for %s to %x", a, got)
					}
				}
			}
		})
	}
}
