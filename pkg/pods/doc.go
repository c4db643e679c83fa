// Package pods maintains, and in the end removes, everything on a host that
// belongs to pods: ports on the bridge, host ports, reserved addresses, and
// records.
//
// Invariant: one function removes a pod, in one order, whoever asks: host ports,
// devices, addresses, record. So an address is free only after nothing uses it any
// more.
package pods
