package routes

import (
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// State is the desired state.
type State struct {
	// Bridge is the name of the bridge.
	Bridge string
	// Addresses are those of the bridge, each with the length of its subnet: the
	// gateways, whose subnets are this host's pod subnets, and link-local ones.
	Addresses []netip.Prefix
	// Peers are the pod subnets of other hosts to which this host should have routes.
	Peers map[netip.Prefix]bool
}

func (s State) equal(o State) bool {
	return s.Bridge == o.Bridge && slices.Equal(s.Addresses, o.Addresses) && maps.Equal(s.Peers, o.Peers)
}

// and returns the state with further link-local addresses: the kernel gives the bridge
// one by itself, and may ask for pods' MAC addresses from it.
func (s State) and(actual []netip.Prefix) State {
	s.Addresses = slices.Clone(s.Addresses)
	for _, a := range actual {
		if a.Addr().IsLinkLocalUnicast() && !slices.Contains(s.Addresses, a) {
			s.Addresses = append(s.Addresses, a)
		}
	}
	return s
}

// own returns this host's pod subnets.
func (s State) own() []netip.Prefix {
	var own []netip.Prefix
	for _, a := range s.Addresses {
		if !a.Addr().IsLinkLocalUnicast() {
			own = append(own, a.Masked())
		}
	}
	return own
}

var multicast6 = netip.MustParsePrefix("ff00::/8")

// connected returns the routes that the kernel makes with the bridge's addresses.
// The broadcast and anycast routes are left out: pods don't need them.
func (s State) connected(index int) []rtnl.ConnectedRoute {
	var all []rtnl.ConnectedRoute
	ipv6 := false
	for _, a := range s.Addresses {
		host := netip.PrefixFrom(a.Addr(), a.Addr().BitLen())
		local := rtnl.ConnectedRoute{Dst: host, Index: index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
		network := rtnl.ConnectedRoute{
			Dst: a.Masked(), Index: index, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST, Metric: metricOf(a),
		}
		if a.Addr().Is4() {
			local.Src, network.Src = a.Addr(), a.Addr()
		}
		ipv6 = ipv6 || a.Addr().Is6()
		for _, r := range []rtnl.ConnectedRoute{local, network} {
			if !slices.Contains(all, r) { // one network for all link-local addresses
				all = append(all, r)
			}
		}
	}
	if ipv6 {
		// Pods ask for the gateway's MAC address by multicast.
		all = append(all, rtnl.ConnectedRoute{
			Dst: multicast6, Index: index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_MULTICAST, Metric: metricOf(multicast6),
		})
	}
	return all
}

// metricOf is the metric that the kernel gives a connected route
// (IP6_RT_PRIO_ADDRCONF).
func metricOf(p netip.Prefix) uint32 {
	if p.Addr().Is4() {
		return 0
	}
	return 256
}

// anyMetric reports whether a route may have any metric. The kernel's own routes to
// IPv6 addresses of the host have 0, which it gives no route of a program.
func anyMetric(w rtnl.ConnectedRoute) bool { return w.Type == unix.RTN_LOCAL && w.Dst.Addr().Is6() }

// sameKey reports whether a route of the kernel has the place of a connected route:
// the kernel can't have both on one interface.
func sameKey(w rtnl.ConnectedRoute, r *rtnl.RouteEntry) bool {
	return r.Dst == w.Dst && r.Table == uint32(w.Table) && r.Index == w.Index && !r.Apart &&
		(r.Metric == w.Metric || anyMetric(w))
}

// same reports whether a route of the kernel is the connected route, as the kernel
// would make it. Before Linux 5.11 the route to multicast groups was a unicast one.
func same(w rtnl.ConnectedRoute, r *rtnl.RouteEntry) bool {
	plain := r.Src == w.Src && (r.More == "" || r.More == " src")
	return sameKey(w, r) && plain && !r.Via.IsValid() && (r.Type == w.Type || w.Dst == multicast6)
}
