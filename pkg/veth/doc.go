// Package veth makes and keeps the veth pairs between the bridge (package bridge)
// and the pods.
//
// Invariant: pods are routed, not switched. The host's end of a pair is an
// isolated port: a frame from a pod reaches only the bridge itself, which is the
// pod's gateway. So traffic between two pods of a host passes the host's IP
// stack.
//
// Add is on the path of every CNI ADD. It sends its messages in as few system
// calls as the kernel allows.
package veth
