// Package vxlan keeps the one VXLAN device that carries the traffic to peers,
// and for each peer its routes, neighbours and FDB entry.
//
// Invariant: after Sync without an error, the device, everything on it and our
// routes over other interfaces are exactly what Desired computes. Sync removes
// whatever else it finds on the device, except what the kernel itself makes
// there. Sync touches nothing on other devices, with two exceptions. A device
// with our alias under another name is one of ours that somebody renamed, and
// Sync deletes it. A route of the main table is ours, on whatever interface, if
// it has the protocol number that we derive from its destination.
//
// A peer needs three kinds of entries. The route sends the peer's subnet to the
// subnet's own network address, which is the address of the peer's VTEP. The
// neighbour entry gives that address the VTEP's MAC address. The FDB entry maps
// that MAC address to the underlay address of the peer's host. All three follow
// from the peer's registry entry alone, so the device learns nothing and asks
// nobody. With direct routing, the route to a peer on the underlay's link uses
// the underlay, with the peer's own address as the next hop.
//
// Reading thousands of entries takes milliseconds, so Sync reads them only for a
// reason: the desired state changed, the last Sync changed something, or the
// kernel reported a change that contradicts the desired state. A notification is
// a reason to read and nothing more: Sync never computes the actual state from
// notifications.
package vxlan
