package vxlan

import (
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// needsTunnel says that there is a subnet of the peer that is of use here and
// not routed directly.
func (in Input) needsTunnel(peer registry.Node) bool {
	return slices.ContainsFunc(peer.Subnets, func(p netip.Prefix) bool {
		return hasFamily(in.Own.Subnets, p) && !in.gateway(peer, p).IsValid()
	})
}

// gateway is the next hop of a direct route to a peer's subnet: the peer's first
// address of the subnet's family that is on the underlay's link. It is invalid
// if the subnet needs the tunnel. The kernel has no routes to IPv6 destinations
// by way of an IPv4 next hop, so a peer with an address of one family has only
// the subnets of that family routed directly.
func (in Input) gateway(peer registry.Node, p netip.Prefix) netip.Addr {
	if !in.Config.DirectRouting {
		return netip.Addr{}
	}
	for _, a := range peer.Addresses {
		if a.Is4() == p.Addr().Is4() && !p.Contains(a) && !in.isOwn(a) && in.onLink(a) {
			return a
		}
	}
	return netip.Addr{}
}

func (in Input) onLink(a netip.Addr) bool {
	return slices.ContainsFunc(in.Underlay.OnLink, func(p netip.Prefix) bool { return p.Contains(a) })
}

// isOwn says that an address is this host's, which is a mistake in the registry:
// the kernel takes it for no next hop.
func (in Input) isOwn(a netip.Addr) bool {
	return a == in.Underlay.Address || slices.Contains(in.Own.Addresses, a)
}

// elsewhere is what remains when the device is made anew: the routes over other
// interfaces.
func (s State) elsewhere() State {
	rest := State{Routes: map[netip.Prefix]Route{}}
	for p, r := range s.Routes {
		if r.Over != 0 {
			rest.Routes[p] = r
		}
	}
	return rest
}
