package vxlan

import (
	"context"
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// expected is what the kernel's notifications are compared with. A notification
// that agrees with the desired state can't be a reason to read: so Sync's own
// work needs no bookkeeping.
type expected struct {
	// State is the desired state, with the index and the kind of the actual device.
	State
	// links are the interfaces that entries depend on. The kernel deletes IPv4
	// routes along with an interface or its address, and reports none of them.
	links []int
}

func expect(want State, device Device) expected {
	e := expected{State: want, links: []int{device.Index}}
	e.Device.Index, e.Device.Kind = device.Index, device.Kind
	for _, r := range want.Routes {
		if r.Over != 0 && !slices.Contains(e.links, r.Over) {
			e.links = append(e.links, r.Over)
		}
	}
	return e
}

// sameEntries reports whether another desired state has the same routes,
// neighbours and FDB entries.
func (e *expected) sameEntries(want State) bool {
	return maps.Equal(e.Routes, want.Routes) && maps.Equal(e.Neighbors, want.Neighbors) && maps.Equal(e.FDB, want.FDB)
}

// contradictedBy reports whether, according to a notification, the kernel may
// differ from the desired state.
func (e *expected) contradictedBy(n rtnl.Notice) bool {
	switch {
	case n.Link != 0:
		return slices.Contains(e.links, n.Link)
	case n.Route != nil:
		return e.contradictedByRoute(n.Route, n.Gone)
	case n.Neighbor == nil || n.Neighbor.Index != e.Device.Index:
		return false
	case n.Neighbor.Family == unix.AF_BRIDGE:
		return e.contradictedByFDB(n.Neighbor, n.Gone)
	}
	return e.contradictedByNeighbor(n.Neighbor, n.Gone)
}

// contradictedByRoute also considers other programs' routes: one to a peer's
// subnet may have replaced ours, and the kernel doesn't report a replaced route
// as deleted.
func (e *expected) contradictedByRoute(r *rtnl.RouteEntry, gone bool) bool {
	over, concerns := e.concerns(r)
	want, wanted := e.Routes[r.Dst]
	switch {
	case !wanted:
		return concerns && !gone && !e.isTemporary(r)
	case gone:
		return concerns
	case !concerns:
		return r.Table == unix.RT_TABLE_MAIN
	}
	route, plain := plainRoute(r, over)
	return !plain || route != want
}

// isTemporary reports whether a route is a host route to a next hop. Sync itself
// adds and deletes such routes (see setViaHostRoutes).
func (e *expected) isTemporary(r *rtnl.RouteEntry) bool {
	_, nextHop := e.Neighbors[r.Dst.Addr()]
	return nextHop && r.Dst.IsSingleIP() && !r.Via.IsValid()
}

func (e *expected) contradictedByNeighbor(n *rtnl.NeighborEntry, gone bool) bool {
	want, wanted := e.Neighbors[n.IP]
	switch {
	case n.IP.IsMulticast():
		return false
	case gone || resolving(n):
		return wanted
	}
	return !wanted || !plainNeighbor(n) || want != Neighbor{MAC: macOf(n.MAC)}
}

func (e *expected) contradictedByFDB(n *rtnl.NeighborEntry, gone bool) bool {
	want, wanted := e.FDB[macOf(n.MAC)]
	if gone {
		return wanted
	}
	return !wanted || !plainNeighbor(n) || want != FDBEntry{Host: n.IP}
}

// Watch calls changed when the kernel reports a change that Sync may have to
// undo, until ctx ends. Sync's own changes don't count. changed must neither
// block nor call k.
func (k *Kernel) Watch(ctx context.Context, changed func()) error {
	k.notices.Resume()
	defer context.AfterFunc(ctx, k.notices.Interrupt)()
	for {
		err := k.notices.Wait()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		contradicted, err := k.pollLocked()
		if contradicted {
			changed()
		}
		if err != nil {
			return err
		}
	}
}

func (k *Kernel) pollLocked() (contradicted bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.poll()
}

// poll takes all pending notifications and reports whether one of them
// contradicts the desired state. A lost notification counts as one that does.
func (k *Kernel) poll() (contradicted bool, err error) {
	err = k.notices.Drain(func(n rtnl.Notice) {
		contradicted = contradicted || k.expected.contradictedBy(n)
	})
	if err != nil {
		contradicted = true
	}
	if contradicted {
		k.reread = true
	}
	if errors.Is(err, nl.ErrLost) {
		err = nil
	}
	return contradicted, err
}
