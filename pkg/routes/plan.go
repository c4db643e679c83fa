package routes

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// op is one change.
type op struct {
	add    *rtnl.ConnectedRoute
	remove *rtnl.RouteEntry
}

func (o op) String() string {
	if o.add != nil {
		return fmt.Sprintf("add route to %s", o.add.Dst)
	}
	return fmt.Sprintf("delete altered route to %s", o.remove.Dst)
}

// late reports whether the operation adds a route that the kernel makes some time
// after the address.
func (o op) late() bool { return o.add != nil && anyMetric(*o.add) }

// plan lists the changes that give the bridge its connected routes. An altered route
// is deleted first, because the kernel can't have both.
func plan(want []rtnl.ConnectedRoute, have []rtnl.RouteEntry) []op {
	var ops []op
	for _, w := range want {
		if slices.ContainsFunc(have, func(r rtnl.RouteEntry) bool { return same(w, &r) }) {
			continue
		}
		for i, r := range have {
			if sameKey(w, &r) {
				ops = append(ops, op{remove: &have[i]})
			}
		}
		ops = append(ops, op{add: &w})
	}
	return append(ops, stale(want, have)...)
}

// stale deletes the local routes of addresses that the bridge doesn't have. The
// kernel takes an IPv6 local route that Sync added for its own, but does not delete it
// with the address.
func stale(want []rtnl.ConnectedRoute, have []rtnl.RouteEntry) []op {
	var ops []op
	for i, r := range have {
		wanted := slices.ContainsFunc(want, func(w rtnl.ConnectedRoute) bool { return w.Index == r.Index && w.Dst == r.Dst })
		onBridge := slices.ContainsFunc(want, func(w rtnl.ConnectedRoute) bool { return w.Index == r.Index })
		if onBridge && !wanted && r.Type == unix.RTN_LOCAL && r.Dst.Addr().Is6() && !r.Dst.Addr().IsLinkLocalUnicast() {
			ops = append(ops, op{remove: &have[i]})
		}
	}
	return ops
}
