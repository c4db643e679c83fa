// Package bridge owns cni0 and the veth pairs between it and the pods.
//
// Invariant: pods are routed, not switched. Every port is isolated, so a frame
// from a pod reaches only the bridge itself, which is the pod's gateway, and
// traffic between two pods of a host passes the host's IP stack. The bridge's
// MAC address is set, and follows from its address, because the kernel would
// else change it with the ports, behind the back of the pods' ARP caches.
//
// The way of ADD (Attach) and everything else (Sync, Inspect) are apart: the
// first is encoded by internal/rtnl in as few system calls as the kernel
// allows, the rest uses the netlink library.
package bridge
