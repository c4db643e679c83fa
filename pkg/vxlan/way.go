package vxlan

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// setByWay sets the IPv6 routes that the kernel refused because it knows another
// way to their next hop: pods' networks may lie inside the network of the
// underlay's link, or inside one that a router has (ip6_route_check_nh_onlink in
// net/ipv6/route.c; IPv4 takes "onlink" at its word). A route to the next hop
// alone, there for as long as it takes, is the better way. It replaces the
// results of what it did.
func (k *Kernel) setByWay(ops []Op, results []error, index int) error {
	var b rtnl.Batch
	var again []int
	for i := range ops {
		o := &ops[i]
		if o.Verb != SetRoute || o.Over != 0 || o.Subnet.Addr().Is4() || !errors.Is(results[i], unix.EINVAL) {
			continue
		}
		again = append(again, i)
		for _, step := range []Op{{Verb: ShowWay, IP: o.IP}, *o, {Verb: HideWay, IP: o.IP}} {
			step.appendTo(&b, index)
		}
	}
	if len(again) == 0 {
		return nil
	}
	steps, err := k.conn.Exec(&b)
	if err != nil {
		return err
	}
	for n, i := range again {
		results[i] = steps[3*n+1] // of the route, between the other two
	}
	return nil
}
