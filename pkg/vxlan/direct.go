package vxlan

import (
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// needsTunnel reports whether the tunnel carries traffic to a subnet of the peer.
func (in Input) needsTunnel(peer registry.Node) bool {
	return slices.ContainsFunc(peer.Subnets, func(p netip.Prefix) bool {
		return hasFamily(in.Own.Subnets, p) && !in.gateway(peer, p).IsValid()
	})
}

// gateway is the next hop of a direct route to a peer's subnet: the peer's first
// address of the subnet's family that is on the underlay's link. It is invalid if
// the subnet needs the tunnel. The kernel refuses IPv4 next hops for IPv6
// destinations, so a peer with addresses of one family has direct routes to its
// subnets of that family only.
func (in Input) gateway(peer registry.Node, p netip.Prefix) netip.Addr {
	if !in.Config.DirectRouting {
		return netip.Addr{}
	}
	for _, a := range peer.Addresses {
		if a.Is4() == p.Addr().Is4() && !p.Contains(a) && !in.isOwn(a) && in.onLink(a) {
			if _, any := anyHost(a, in.Underlay); any {
				continue
			}
			return a
		}
	}
	return netip.Addr{}
}

func (in Input) onLink(a netip.Addr) bool {
	return slices.ContainsFunc(in.Underlay.OnLink, func(p netip.Prefix) bool { return p.Contains(a) })
}

// isOwn reports whether an address is this host's. That is a mistake in the
// registry, and the kernel refuses the address as a next hop.
func (in Input) isOwn(a netip.Addr) bool {
	return a == in.Underlay.Address || slices.Contains(in.Own.Addresses, a)
}

// withoutDevice is what remains of s after the device was deleted: the routes
// over other interfaces.
func (s State) withoutDevice() State {
	rest := State{Routes: map[netip.Prefix]Route{}}
	for p, r := range s.Routes {
		if r.Over != 0 {
			rest.Routes[p] = r
		}
	}
	return rest
}
