package vxlan

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// setViaHostRoutes sets the IPv6 routes that the kernel refused because it has a
// route to their next hop over another interface (ip6_route_check_nh_onlink in
// net/ipv6/route.c; IPv4 trusts "onlink"). This happens if the pods' network
// lies inside the network of the underlay's link, or inside one that a router
// announces. setViaHostRoutes adds a host route to the next hop, sets the route,
// and deletes the host route. In requests it replaces the refused requests by
// those of this second attempt.
func (k *Kernel) setViaHostRoutes(ops []Op, requests []*nl.Request, index int) error {
	var b rtnl.Batch
	for i := range ops {
		o := &ops[i]
		if o.Verb != SetRoute || o.Over != 0 || o.Subnet.Addr().Is4() || !errors.Is(requests[i].Err(), unix.EINVAL) {
			continue
		}
		before, after := Op{Verb: AddHostRoute, IP: o.IP}, Op{Verb: DeleteHostRoute, IP: o.IP}
		before.request(&b, index)
		requests[i] = o.request(&b, index)
		after.request(&b, index)
	}
	if b.Len() == 0 {
		return nil
	}
	if err := k.conn.Run(&b); err != nil && !isRefusal(err) {
		return err
	}
	return nil
}
