package vxlan

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// mirror is what is on the device, and our routes elsewhere: read once, and kept
// up to date by the kernel's notifications.
//
// Invariant: as long as it is usable it holds what reading would give. It
// follows plain entries alone, as we make them; whatever else is heard of makes
// it void, and everything is read again:
//   - an entry that we would not make, and one that comes beside another;
//   - any news of the device, or of an interface with a direct route, and of
//     their addresses: the kernel drops IPv4 routes with these and tells nobody;
//   - a notification that was lost.
type mirror struct {
	usable bool
	// base is the device; its maps are those below.
	base      State
	routes    table[netip.Prefix, Route]
	neighbors table[netip.Addr, Neighbor]
	forwards  table[MAC, Forward]
	// links are the interfaces that entries depend on.
	links set[int]
}

// table are the entries of one kind.
type table[K, V comparable] struct {
	have map[K]V
	// open are the keys of entries that others changed since the last plan, and
	// asked is what that plan asked the kernel for.
	open  set[K]
	asked map[K]wanted[V]
}

// wanted is an entry as it should be, which may be absent.
type wanted[V comparable] struct {
	value   V
	present bool
}

// mirrorOf begins with what was read. With rivals it is of no use: the kernel
// would replace another route than the one that is heard of.
func mirrorOf(s State, rivals bool) *mirror {
	m := &mirror{
		usable: !rivals && s.plain(), base: s, links: set[int]{s.Device.Index: {}},
		routes:    table[netip.Prefix, Route]{have: s.Routes},
		neighbors: table[netip.Addr, Neighbor]{have: s.Neighbors},
		forwards:  table[MAC, Forward]{have: s.Forwards},
	}
	for _, r := range s.Routes {
		m.linked(r)
	}
	return m
}

// plain says that all entries are of a kind that we make.
func (s State) plain() bool {
	if len(s.Foreign) > 0 {
		return false
	}
	for _, r := range s.Routes {
		if r.Odd != nil {
			return false
		}
	}
	for _, n := range s.Neighbors {
		if n.Odd != nil {
			return false
		}
	}
	for _, f := range s.Forwards {
		if f.Odd != nil {
			return false
		}
	}
	return true
}

// linked notes what a route depends on. An interface that no route leads over
// any more stays noted: its news are few.
func (m *mirror) linked(r Route) {
	if r.Over != 0 {
		put(&m.links, r.Over)
	}
}

// take takes over a notification, and says whether it is news: something that
// may need mending, other than that the kernel did what it was asked to do.
func (m *mirror) take(n rtnl.Notice) (news bool) {
	switch {
	case n.Link != 0:
		if _, ours := m.links[n.Link]; ours {
			return m.void()
		}
	case n.Route != nil:
		return m.takeRoute(n)
	case n.Neighbor != nil && n.Neighbor.Index == m.base.Device.Index:
		if n.Neighbor.Family == unix.AF_BRIDGE {
			return m.takeForward(n)
		}
		return m.takeNeighbor(n)
	}
	return false
}

// void ends the following.
func (m *mirror) void() (news bool) {
	m.usable = false
	return true
}

// takeRoute also hears of routes that are none of ours, to destinations that we
// have a route to.
func (m *mirror) takeRoute(n rtnl.Notice) (news bool) {
	over, concerns := m.base.over(n.Route)
	have, known := m.routes.have[n.Route.Dst]
	route, plain := plainRoute(n.Route, over)
	switch {
	case !concerns && (!known || n.Gone || n.Route.Table != unix.RT_TABLE_MAIN):
		return false // no reading would find a difference
	case !m.usable, !concerns, !plain, n.Gone && have != route, known && !n.Gone && !n.Replaces:
		return m.void()
	case n.Gone:
		return m.routes.delete(n.Route.Dst)
	}
	m.linked(route)
	return m.routes.set(n.Route.Dst, route)
}

func (m *mirror) takeNeighbor(n rtnl.Notice) (news bool) {
	ip := n.Neighbor.IP
	_, known := m.neighbors.have[ip]
	gone := n.Gone || resolving(n.Neighbor)
	switch {
	case ip.IsMulticast(), gone && !known && m.usable:
		return false
	case !m.usable, !gone && !plainNeighbor(n.Neighbor):
		return m.void()
	case gone:
		return m.neighbors.delete(ip)
	}
	return m.neighbors.set(ip, Neighbor{MAC: macOf(n.Neighbor.MAC)})
}

func (m *mirror) takeForward(n rtnl.Notice) (news bool) {
	mac, forward := macOf(n.Neighbor.MAC), Forward{Host: n.Neighbor.IP}
	switch {
	case !m.usable, !unicast(n.Neighbor), !plainNeighbor(n.Neighbor), n.Gone && m.forwards.have[mac] != forward:
		return m.void()
	case n.Gone:
		return m.forwards.delete(mac)
	}
	return m.forwards.set(mac, forward)
}

func (t *table[K, V]) set(k K, v V) (news bool) {
	if have, known := t.have[k]; known && have == v {
		return false
	}
	t.have[k] = v
	return t.note(k)
}

func (t *table[K, V]) delete(k K) (news bool) {
	if _, known := t.have[k]; !known {
		return false
	}
	delete(t.have, k)
	return t.note(k)
}

// note says whether the kernel was not asked for this.
func (t *table[K, V]) note(k K) (news bool) {
	value, present := t.have[k]
	if asked, ok := t.asked[k]; ok && asked == (wanted[V]{value, present}) {
		return false
	}
	put(&t.open, k)
	return true
}

// plan lists what turns entries into what want says: those that changed there,
// those that others changed, and those that were asked for, in case the kernel
// did something else.
func (m *mirror) plan(want State, changed keys) []Op {
	if changed.all {
		return planEntries(want, m.base)
	}
	w, h := newState(0), newState(0)
	m.routes.pick(changed.routes, want.Routes, w.Routes, h.Routes)
	m.neighbors.pick(changed.neighbors, want.Neighbors, w.Neighbors, h.Neighbors)
	m.forwards.pick(changed.forwards, want.Forwards, w.Forwards, h.Forwards)
	return planEntries(w, h)
}

// pick copies what is wanted and what there is of the keys to look at.
func (t *table[K, V]) pick(changed set[K], want, w, h map[K]V) {
	pick := func(k K) {
		if v, ok := want[k]; ok {
			w[k] = v
		}
		if v, ok := t.have[k]; ok {
			h[k] = v
		}
	}
	for k := range changed {
		pick(k)
	}
	for k := range t.open {
		pick(k)
	}
	for k := range t.asked {
		pick(k)
	}
}

// mostFollowed is how many operations' notifications are sure to find room.
const mostFollowed = 2000

// expect notes what the kernel is going to be asked for. Everything else is as
// it should be.
func (m *mirror) expect(ops []Op, want State) {
	if len(ops) > mostFollowed {
		m.usable = false
		return
	}
	m.routes.settle()
	m.neighbors.settle()
	m.forwards.settle()
	for i := range ops {
		switch op := &ops[i]; op.Verb {
		case SetRoute, DeleteRoute:
			m.routes.ask(op.Subnet, want.Routes)
		case SetNeighbor, DeleteNeighbor:
			m.neighbors.ask(op.IP, want.Neighbors)
		case SetForward, DeleteForward:
			m.forwards.ask(op.MAC, want.Forwards)
		}
	}
}

func (t *table[K, V]) settle() { t.open, t.asked = nil, map[K]wanted[V]{} }

func (t *table[K, V]) ask(k K, want map[K]V) {
	value, present := want[k]
	t.asked[k] = wanted[V]{value, present}
}
