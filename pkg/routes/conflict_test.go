package routes

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

const (
	bridge, tunnel, other = 3, 4, 5
	ourProtocol           = 213
)

// addresses are one family's in the tests.
type addresses struct{ gateway, peer, pod, peerPod, wider netip.Prefix }

var both = map[string]addresses{
	"IPv4": {prefix("10.244.1.1/24"), prefix("10.244.2.0/24"), prefix("10.244.1.7/32"), prefix("10.244.2.7/32"), prefix("10.244.0.0/16")},
	"IPv6": {prefix("fd44:0:0:1::1/64"), prefix("fd44:0:0:2::/64"), prefix("fd44:0:0:1::7/128"), prefix("fd44:0:0:2::7/128"), prefix("fd44::/48")},
}

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func (a addresses) host() host {
	s := State{Bridge: "cni0", Addresses: []netip.Prefix{a.gateway}, Peers: map[netip.Prefix]bool{a.peer: true}}
	return host{s.subnets(), s.connected(bridge), bridge, func(p uint8) bool { return p == ourProtocol }}
}

// entry returns a plain route in the table main.
func entry(dst netip.Prefix, index int, change func(*rtnl.RouteEntry)) rtnl.RouteEntry {
	r := rtnl.RouteEntry{Route: rtnl.Route{Dst: dst.Masked(), Index: index}, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
	if dst.Addr().Is6() {
		r.Metric = 1024
	}
	if change != nil {
		change(&r)
	}
	return r
}

// own are the routes that the kernel and package vxlan made.
func (a addresses) own() []rtnl.RouteEntry {
	var all []rtnl.RouteEntry
	for _, w := range a.host().want {
		all = append(all, rtnl.RouteEntry{
			Route: rtnl.Route{Dst: w.Dst, Index: w.Index}, Table: uint32(w.Table), Type: w.Type, Metric: w.Metric, Protocol: unix.RTPROT_KERNEL,
			Src: w.Src,
		})
	}
	return append(all, entry(a.peer, tunnel, func(r *rtnl.RouteEntry) { r.Protocol = ourProtocol }))
}

func TestConflicts(t *testing.T) {
	for name, a := range both {
		whole, best := a.gateway.Masked(), func(r *rtnl.RouteEntry) { r.Metric = 0 }
		for _, tt := range []struct {
			name  string
			first bool // the route comes before ours
			route rtnl.RouteEntry
			found bool
		}{
			{"the same as ours, later", false, entry(whole, other, func(r *rtnl.RouteEntry) { r.Metric = metricOf(whole) }), false},
			{"the same as ours, earlier", true, entry(whole, other, func(r *rtnl.RouteEntry) { r.Metric = metricOf(whole) }), true},
			{"a worse metric", true, entry(whole, other, func(r *rtnl.RouteEntry) { r.Metric = 2000 }), false},
			{"in the table local", false, entry(whole, other, func(r *rtnl.RouteEntry) { r.Table = unix.RT_TABLE_LOCAL }), true},
			{"in another table", true, entry(whole, other, func(r *rtnl.RouteEntry) { r.Table = 100 }), false},
			{"its interface is down", true, entry(whole, other, func(r *rtnl.RouteEntry) { r.Dead = true }), false},
			{"a larger network", true, entry(a.wider, other, best), false},
			{"one pod", false, entry(a.pod, other, nil), true},
			{"one pod, on the bridge", false, entry(a.pod, bridge, nil), false},
			{"one pod, via somebody on the bridge", false, entry(a.pod, bridge, func(r *rtnl.RouteEntry) { r.Via = a.gateway.Addr().Next() }), true},
			{"one pod, on several bridges", false, entry(a.pod, 0, func(r *rtnl.RouteEntry) { r.Indexes = []int{bridge, other} }), true},
			{"one pod, blackhole", false, entry(a.pod, 0, func(r *rtnl.RouteEntry) { r.Type = unix.RTN_BLACKHOLE }), true},
			{"the host has a pod's address", false, entry(a.pod, other, func(r *rtnl.RouteEntry) { r.Type, r.Table = unix.RTN_LOCAL, unix.RT_TABLE_LOCAL }), true},
			{"another bridge has the gateway", true, entry(netip.PrefixFrom(a.gateway.Addr(), a.gateway.Addr().BitLen()), other,
				func(r *rtnl.RouteEntry) { r.Type, r.Table = unix.RTN_LOCAL, unix.RT_TABLE_LOCAL }), false},
			{"the tunnel's address", false, entry(netip.PrefixFrom(whole.Addr(), whole.Addr().BitLen()), tunnel, nil), false},
			{"a broadcast address", false, entry(a.pod, other, func(r *rtnl.RouteEntry) { r.Type = unix.RTN_BROADCAST }), false},
			{"the other host's subnet, better", true, entry(a.peer, other, best), true},
			{"the other host's subnet, worse", true, entry(a.peer, other, func(r *rtnl.RouteEntry) { r.Metric = 2000 }), false},
			{"one pod of the other host", false, entry(a.peerPod, other, nil), true},
			{"one pod of the other host, on the bridge", false, entry(a.peerPod, bridge, nil), true},
		} {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				routes := a.own()
				if tt.first {
					routes = slices.Insert(routes, 0, tt.route)
				} else {
					routes = append(routes, tt.route)
				}
				found := a.host().conflicts(routes)
				if (len(found) > 0) != tt.found {
					t.Errorf("found %+v", found)
				}
				if noticed := a.host().contradictedBy(rtnl.Notice{Route: &tt.route}); tt.found && !noticed {
					t.Error("a notification about the route is ignored")
				}
			})
		}
		// Package vxlan reports the peer's subnet, and nobody else this host's own.
		t.Run(name+"/ours are missing", func(t *testing.T) {
			found := a.host().conflicts([]rtnl.RouteEntry{entry(whole, other, nil), entry(a.peer, other, nil)})
			if len(found) != 1 || !found[0].whole() {
				t.Errorf("found %+v", found)
			}
		})
	}
}

func TestContradiction(t *testing.T) {
	for name, a := range both {
		h := a.host()
		for _, r := range a.own() {
			if h.contradictedBy(rtnl.Notice{Route: &r}) {
				t.Errorf("%s: our own work contradicts: %+v", name, r)
			}
			if gone := h.contradictedBy(rtnl.Notice{Route: &r, Gone: true}); gone != (r.Index == bridge) {
				t.Errorf("%s: the deletion of %+v counts: %v", name, r, gone)
			}
			r.More = " metrics"
			if altered := h.contradictedBy(rtnl.Notice{Route: &r}); altered != (r.Index == bridge) {
				t.Errorf("%s: the alteration of %+v counts: %v", name, r, altered)
			}
		}
	}
}

func TestText(t *testing.T) {
	name := func(int) string { return "eth9" }
	for _, tt := range []struct {
		conflict conflict
		want     string
	}{
		{conflict{entry(prefix("10.244.1.0/24"), other, func(r *rtnl.RouteEntry) { r.Via = netip.MustParseAddr("192.168.77.9") }), prefix("10.244.1.0/24"), true},
			`the route "10.244.1.0/24 via 192.168.77.9 dev eth9" takes the packets to this host's pod subnet 10.244.1.0/24, so they don't reach its pods: remove it with "ip route del 10.244.1.0/24 via 192.168.77.9 dev eth9"`},
		{conflict{entry(prefix("fd44::7/128"), 1, func(r *rtnl.RouteEntry) { r.Type = unix.RTN_BLACKHOLE }), prefix("fd44::/64"), false},
			`the route "blackhole fd44::7/128 metric 1024" takes the packets to a part of another host's pod subnet fd44::/64, so they don't reach its pods: remove it with "ip -6 route del blackhole fd44::7/128 metric 1024"`},
		{conflict{entry(prefix("10.244.1.0/24"), other, func(r *rtnl.RouteEntry) { r.Protocol = unix.RTPROT_KERNEL }), prefix("10.244.1.0/24"), true},
			`the route "10.244.1.0/24 dev eth9" takes the packets to this host's pod subnet 10.244.1.0/24, so they don't reach its pods: it came with an address of eth9: remove the address (ip addr show dev eth9), or the device if nobody needs it (ip link del eth9)`},
	} {
		if got := tt.conflict.text(name); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestPlan(t *testing.T) {
	for name, a := range both {
		want, whole := a.host().want, a.gateway.Masked()
		if ops := plan(want, a.own()); len(ops) > 0 {
			t.Errorf("%s: nothing is wrong, but the plan is %v", name, ops)
		}
		if ops := plan(want, nil); len(ops) != len(want) {
			t.Errorf("%s: all are missing, but the plan is %v", name, ops)
		}
		altered := a.own()
		altered[1].More = " metrics"
		ops := plan(want, altered)
		if len(ops) != 2 || ops[0].remove == nil || ops[1].add == nil || ops[1].add.Dst != whole {
			t.Errorf("%s: one is altered, but the plan is %v", name, ops)
		}
	}
	old := entry(prefix("fd44:0:0:9::1/128"), bridge, func(r *rtnl.RouteEntry) { r.Type, r.Table = unix.RTN_LOCAL, unix.RT_TABLE_LOCAL })
	if ops := plan(both["IPv6"].host().want, append(both["IPv6"].own(), old)); len(ops) != 1 || ops[0].remove == nil {
		t.Errorf("an address is gone and its route is left: %v", ops)
	}
}
