// Package vxlan keeps the one VXLAN device that carries the traffic to peers,
// and for each peer its routes, neighbours and forwarding entry.
//
// Invariant: after Keep without an error the device, everything on it and our
// routes over other interfaces are exactly what Desired computes. Whatever else
// is found on the device goes, but for what the kernel itself makes there.
// Nothing on other devices is touched, with two exceptions: a device with our
// alias under another name is one of ours that was renamed, and is deleted; and
// a route of the main table is ours, wherever it leads, if it has the one of our
// protocol numbers that follows from its destination.
//
// A peer needs three kinds of entries. The route sends its subnet to the
// subnet's own network address, which is its VTEP's; the neighbour entry gives
// that address the VTEP's MAC address; the forwarding entry gives the MAC
// address the host to send to. All of them follow from the peer's registry
// entry alone, so the device learns nothing and asks nobody. With direct routing
// the route to a peer on the underlay's link leads over the underlay, by way of
// the peer's own address.
//
// There may be thousands of peers, of which one changes. So Goal computes the
// desired state anew as far as it follows from what changed, and a mirror of what
// is on the device is kept up to date by the kernel's notifications, which are
// there before the answer to whoever made the change. What can't be followed for
// certain is read again, all of it. So both sides are still states that are
// compared.
package vxlan
