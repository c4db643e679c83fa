package routes

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// subnets finds the pod subnet that an address or a part of a subnet lies in.
type subnets struct {
	own, peers map[netip.Prefix]bool
	lengths    []int // of the prefixes, each once
}

func (s State) subnets() subnets {
	f := subnets{own: map[netip.Prefix]bool{}, peers: s.Peers}
	add := func(p netip.Prefix) {
		if !slices.Contains(f.lengths, p.Bits()) {
			f.lengths = append(f.lengths, p.Bits())
		}
	}
	for _, p := range s.own() {
		f.own[p] = true
		add(p)
	}
	for p := range s.Peers {
		add(p)
	}
	return f
}

// around returns the pod subnet that p is, or is a part of.
func (f subnets) around(p netip.Prefix) (subnet netip.Prefix, ok bool) {
	for _, bits := range f.lengths {
		if bits > p.Bits() {
			continue
		}
		if subnet, err := p.Addr().Prefix(bits); err == nil && (f.own[subnet] || f.peers[subnet]) {
			return subnet, true
		}
	}
	return netip.Prefix{}, false
}

// host is what the routes of a host are compared with.
type host struct {
	subnets
	want   []rtnl.ConnectedRoute
	bridge int                       // index of the bridge
	ours   func(protocol uint8) bool // the protocol numbers of our routes to peers
}

// isOurs reports whether a route is one that we made, or that the kernel made with
// an address of ours.
func (h host) isOurs(r *rtnl.RouteEntry) bool {
	if r.Table == unix.RT_TABLE_MAIN && h.peers[r.Dst] && h.ours(r.Protocol) {
		return true
	}
	return slices.ContainsFunc(h.want, func(w rtnl.ConnectedRoute) bool { return same(w, r) })
}

// foreign returns the pod subnet in which another program's route matters. A route
// that leads a part of this host's own subnet to the bridge changes nothing.
func (h host) foreign(r *rtnl.RouteEntry) (subnet netip.Prefix, matters bool) {
	if r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_LOCAL || r.Dead || h.isOurs(r) {
		return subnet, false
	}
	subnet, matters = h.around(r.Dst)
	if !matters {
		return subnet, false
	}
	if h.own[subnet] && r.Dst.IsSingleIP() && r.Dst.Addr() == subnet.Addr() {
		return subnet, false // the network address, which the tunnel's device has
	}
	switch r.Type {
	case unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
		return subnet, false // no pod has such an address
	case unix.RTN_LOCAL:
		return subnet, !h.isLocal(r.Dst) // a gateway's, on whichever interface
	case unix.RTN_UNICAST:
		toBridge := r.Index == h.bridge && !r.Via.IsValid() && len(r.Indexes) == 0
		return subnet, !h.own[subnet] || !toBridge
	}
	return subnet, true
}

func (h host) isLocal(dst netip.Prefix) bool {
	return slices.ContainsFunc(h.want, func(w rtnl.ConnectedRoute) bool { return w.Type == unix.RTN_LOCAL && w.Dst == dst })
}

// conflict is another program's route that the kernel prefers to ours.
type conflict struct {
	route  rtnl.RouteEntry
	subnet netip.Prefix
	own    bool // the subnet is this host's own
}

// whole reports whether the route takes all of this host's own subnet.
func (c conflict) whole() bool { return c.own && c.route.Dst == c.subnet }

// conflicts lists the routes that the kernel prefers to ours. The routes are in
// the kernel's order.
func (h host) conflicts(routes []rtnl.RouteEntry) []conflict {
	var found []conflict
	ours := map[netip.Prefix]int{} // by destination, the position of our route
	for i := range routes {
		if r := &routes[i]; r.Table == unix.RT_TABLE_MAIN && h.isOurs(r) {
			ours[r.Dst] = i
		}
	}
	for i := range routes {
		r := &routes[i]
		subnet, matters := h.foreign(r)
		if !matters {
			continue
		}
		own := h.own[subnet]
		if r.Dst == subnet {
			at, there := ours[subnet]
			// Package vxlan reports a peer's subnet to which it can't set a route.
			if !there && !own || there && !preferred(r, i, &routes[at], at) {
				continue
			}
		}
		found = append(found, conflict{*r, subnet, own})
	}
	return found
}

// preferred reports whether the kernel prefers a route r to our route o, to the same
// destination. Of routes with equal metrics it takes the first.
func preferred(r *rtnl.RouteEntry, rAt int, o *rtnl.RouteEntry, oAt int) bool {
	if r.Table != o.Table {
		return r.Table == unix.RT_TABLE_LOCAL // rule 0 looks there first
	}
	if r.Metric != o.Metric {
		return r.Metric < o.Metric
	}
	return rAt < oAt
}

// text says what the route does, and what to do about it. Name returns the name of an
// interface.
func (c conflict) text(name func(index int) string) string {
	route := describe(&c.route, name)
	whose := "another host's pod subnet " + c.subnet.String()
	if c.own {
		whose = "this host's pod subnet " + c.subnet.String()
	}
	if c.route.Dst != c.subnet {
		whose = "a part of " + whose
	}
	return fmt.Sprintf("the route %q takes the packets to %s, so they don't reach its pods: %s", route, whose, remedy(&c.route, route, name))
}

// remedy is the command that removes a route. Routes that the kernel made go with
// their address.
func remedy(r *rtnl.RouteEntry, route string, name func(index int) string) string {
	if r.Protocol == unix.RTPROT_KERNEL && r.Index != 0 {
		device := name(r.Index)
		text := fmt.Sprintf("it came with an address of %s: remove the address (ip addr show dev %s)", device, device)
		if device != "lo" {
			text += fmt.Sprintf(", or the device if nobody needs it (ip link del %s)", device)
		}
		return text
	}
	command := "ip "
	if r.Dst.Addr().Is6() {
		command += "-6 "
	}
	return fmt.Sprintf("remove it with \"%sroute del %s\"", command, route)
}

// describe writes a route as ip-route(8) takes it.
func describe(r *rtnl.RouteEntry, name func(index int) string) string {
	var words []string
	if kind, ok := kinds[r.Type]; ok {
		words = append(words, kind)
	}
	words = append(words, r.Dst.String())
	if r.Via.IsValid() {
		words = append(words, "via", r.Via.String())
	}
	if _, special := kinds[r.Type]; r.Index != 0 && (!special || r.Type == unix.RTN_LOCAL) {
		words = append(words, "dev", name(r.Index))
	}
	if r.Metric != 0 {
		words = append(words, "metric", strconv.Itoa(int(r.Metric)))
	}
	if r.Table == unix.RT_TABLE_LOCAL {
		words = append(words, "table local")
	}
	return strings.Join(words, " ")
}

// kinds are the types of routes that ip-route(8) names.
var kinds = map[uint8]string{
	unix.RTN_LOCAL: "local", unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable",
	unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}
