// Package bridge makes and keeps cni0, the bridge that pods' veth pairs are
// plugged into (package veth). The bridge is the pods' gateway.
//
// Invariant: the bridge's MAC address is set, and follows from the bridge's first
// address. Left alone, the kernel would take the lowest MAC address of the ports
// and change it when pods come and go, behind the back of the pods' ARP caches.
package bridge
