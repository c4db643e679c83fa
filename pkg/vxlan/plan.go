package vxlan

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

// Plan lists the operations that turn have into want, in the order in which
// they have to happen. It is deterministic, and empty if there is nothing to
// do.
func Plan(want, have State) []Op {
	ops, creates := planDevice(want, have)
	if creates {
		// A new device is empty, whatever was on the one before it.
		have = have.withoutDevice()
	}
	ops = append(ops, planAddresses(want, have)...)
	return append(ops, planEntries(want, have)...)
}

// planDevice lists the operations on the device itself. Creates says that they
// create the device, which is then empty.
func planDevice(want, have State) (ops []Op, creates bool) {
	for _, name := range have.Renamed {
		ops = append(ops, Op{Verb: DeleteDevice, Text: name})
	}
	w, h := want.Device, have.Device
	if h.Name != "" && !changeable(w.Tunnel, h.Tunnel) {
		ops = append(ops, Op{Verb: DeleteDevice, Text: h.Name})
		h = Device{}
	}
	if h.Name == "" {
		ops = append(ops, Op{Verb: CreateDevice, Device: &w})
		creates, h = true, justCreated(w)
	}
	return append(ops, changes(w, h)...), creates
}

// changeable reports whether the kernel can turn one tunnel into the other. The
// kernel changes neither VNI nor port of a live device, nor the family of its
// local address, nor most options. The options in More could be unset, but they
// are too rare to be worth the code.
func changeable(w, h tunnel.Tunnel) bool {
	return w.VNI == h.VNI && w.Port == h.Port && w.Local.BitLen() == h.Local.BitLen() && w.More == h.More &&
		fixedOptions(w.Options) == fixedOptions(h.Options)
}

// justCreated is the device that the kernel makes for CreateDevice of d.
func justCreated(d Device) Device {
	d.Up, d.Alias, d.AutoAddress, d.TxChecksum = false, "", true, true
	return d
}

// changes lists the operations that change a device in place. The device leaves its
// master first, for a bond sets MTU and MAC address of its ports. The tunnel comes
// before the MTU, which the underlay limits. Automatic IPv6 addresses are turned
// off before the device goes up.
func changes(w, h Device) []Op {
	var ops []Op
	add := func(v Verb, differs bool) {
		if differs {
			ops = append(ops, Op{Verb: v, Device: &w})
		}
	}
	add(SetAlias, w.Alias != h.Alias)
	add(SetNoMaster, h.Master != 0)
	add(SetTunnel, w.Tunnel != h.Tunnel)
	add(SetMTU, w.MTU != h.MTU)
	add(SetMAC, w.MAC != h.MAC)
	add(SetNoAutoAddress, h.AutoAddress && !w.AutoAddress)
	add(SetTxChecksum, w.TxChecksum != h.TxChecksum)
	add(SetResolvesNeighbors, h.NoNeighbors)
	add(SetNoProtoDown, h.ProtoDown)
	add(SetUp, w.Up && !h.Up)
	return ops
}

// planRemove lists what deletes the device, its renamed copies and our routes
// elsewhere. The error says why it keeps the device.
func planRemove(name string, have State) (ops []Op, refused error) {
	for _, renamed := range have.Renamed {
		ops = append(ops, Op{Verb: DeleteDevice, Text: renamed})
	}
	switch d := have.Device; {
	case d.Name == "":
	case d.Alias == network.Default.TunnelAlias() && d.Kind == kindVXLAN:
		ops = append(ops, Op{Verb: DeleteDevice, Text: name})
	default:
		refused = fmt.Errorf("delete device %q: it %w (kind %s, alias %q): remove it with \"ip link del %s\" if it has to go",
			name, ErrNotOurs, d.Kind, d.Alias, name)
	}
	for p, r := range have.withoutDevice().Routes {
		ops = append(ops, deleteRoute(p, r))
	}
	return ops, refused
}

// planAddresses lists the operations on the device's addresses. It adds before it
// deletes, because a device loses all its IPv4 routes with its last IPv4 address.
// But an address with a wrong prefix length has to go first: the kernel refuses
// the same IPv6 address twice.
func planAddresses(want, have State) []Op {
	var before, add, after []Op
	inTheWay := map[netip.Addr]bool{}
	missing, _ := difference(want.Addresses, have.Addresses, netip.Prefix.Compare)
	for _, p := range missing {
		add = append(add, Op{Verb: AddAddress, Subnet: p})
		inTheWay[p.Addr()] = true
	}
	// With want and have exchanged, difference returns the addresses to delete.
	excess, _ := difference(have.Addresses, want.Addresses, netip.Prefix.Compare)
	for _, p := range excess {
		op := Op{Verb: DeleteAddress, Subnet: p, Unexpected: have.Addresses[p].Unexpected}
		if inTheWay[p.Addr()] {
			before = append(before, op)
		} else {
			after = append(after, op)
		}
	}
	return slices.Concat(before, add, after)
}

// planEntries lists what is to be done on the device. The order matters:
//   - Unmanaged entries go first, since they can be in the way: of several routes
//     to one destination, the kernel replaces only the first.
//   - Entries are set before others are deleted. Our routes over another
//     interface are replaced, not deleted.
//   - A peer's FDB entry is set before its neighbours, and these before its
//     routes, so that no packet finds a route that leads nowhere.
func planEntries(want, have State) []Op {
	fdb, oldFDB := difference(want.FDB, have.FDB, compareMAC)
	neighbors, oldNeighbors := difference(want.Neighbors, have.Neighbors, netip.Addr.Compare)
	routes, oldRoutes := difference(want.Routes, have.Routes, netip.Prefix.Compare)
	ops := make([]Op, 0, len(have.Unmanaged)+len(fdb)+len(neighbors)+len(routes))
	for i := range have.Unmanaged {
		ops = append(ops, Op{Verb: DeleteUnmanaged, Unexpected: &have.Unmanaged[i]})
	}
	for _, mac := range fdb {
		ops = append(ops, Op{Verb: SetFDB, MAC: mac, IP: want.FDB[mac].Host, Text: was(have.FDB, mac)})
	}
	for _, ip := range neighbors {
		ops = append(ops, Op{Verb: SetNeighbor, IP: ip, MAC: want.Neighbors[ip].MAC, Text: was(have.Neighbors, ip)})
	}
	for _, p := range routes {
		ops = planRoute(ops, p, want.Routes[p], have)
	}
	// The other way round: routes first.
	for _, p := range oldRoutes {
		ops = append(ops, deleteRoute(p, have.Routes[p]))
	}
	for _, ip := range oldNeighbors {
		ops = append(ops, Op{Verb: DeleteNeighbor, IP: ip, MAC: have.Neighbors[ip].MAC, Unexpected: have.Neighbors[ip].Unexpected})
	}
	for _, mac := range oldFDB {
		ops = append(ops, Op{Verb: DeleteFDB, MAC: mac, IP: have.FDB[mac].Host, Unexpected: have.FDB[mac].Unexpected})
	}
	return ops
}

// planRoute adds what sets a route. The kernel replaces a route over another
// interface in a single step, so that no packet is lost. But if it has a route
// to an IPv6 next hop, it accepts the next hop only on the interface of that
// route (ip6_route_check_nh_onlink). A VTEP's address lies in the subnet behind
// it, so a direct route to that subnet would have to go first. A host route to
// the VTEP, which exists for a moment, helps.
func planRoute(ops []Op, p netip.Prefix, want Route, have State) []Op {
	set := Op{Verb: SetRoute, Subnet: p, IP: want.Via, Over: want.Over, Text: was(have.Routes, p)}
	if want.Over != 0 || have.Routes[p].Over == 0 || p.Addr().Is4() {
		return append(ops, set)
	}
	return append(ops, Op{Verb: AddHostRoute, IP: want.Via}, set, Op{Verb: DeleteHostRoute, IP: want.Via})
}

func deleteRoute(p netip.Prefix, r Route) Op {
	return Op{Verb: DeleteRoute, Subnet: p, IP: r.Via, Over: r.Over, Unexpected: r.Unexpected}
}

// difference returns the keys of want with another value or none in have, and the
// keys of have that are not in want, both in order.
func difference[K, V comparable](want, have map[K]V, compare func(K, K) int) (set, drop []K) {
	shared := 0
	for k, w := range want {
		h, ok := have[k]
		if ok {
			shared++
		}
		if !ok || h != w {
			set = append(set, k)
		}
	}
	if shared < len(have) { // rarely
		for k := range have {
			if _, ok := want[k]; !ok {
				drop = append(drop, k)
			}
		}
	}
	slices.SortFunc(set, compare)
	slices.SortFunc(drop, compare)
	return set, drop
}

// was describes the entry that is replaced; it is empty if there is none.
func was[K comparable, V fmt.Stringer](have map[K]V, k K) string {
	if h, ok := have[k]; ok {
		return h.String()
	}
	return ""
}

func compareMAC(a, b MAC) int { return bytes.Compare(a[:], b[:]) }
