// Package routes keeps the routes that the kernel makes along with the bridge's
// addresses, and finds other programs' routes that lead pods' traffic astray.
//
// Without the bridge's route to this host's own pod subnet, no packet reaches a pod
// of this host. The kernel makes that route with the address, and never again:
// "ip route del" or "ip -6 route flush dev cni0" removes it for good. So it belongs
// to the desired state like everything else.
//
// Another program's route to a pod subnet, or to a part of one, is that program's.
// It stays, and Sync says what it does and how to remove it. Routes in tables other
// than main and local concern package iprule.
//
// Invariant: Sync reads all routes for a reason only: the desired state changed, the
// last Sync changed or reported something, ForceResync was called, or the kernel
// reported a change that contradicts the desired state. See package vxlan.
package routes
