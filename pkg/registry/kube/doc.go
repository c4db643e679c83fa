// Package kube is the registry of a Kubernetes cluster: its Node objects.
//
//	name        metadata.name
//	addresses   annotation overlay-cni.io/address, else status.addresses
//	subnets     spec.podCIDRs
//
// Invariant: Nodes follows from the last state of each Node that the API server
// sent. A Node with a mistake never excludes another node. While the API server
// does not answer, Nodes returns the same nodes.
//
// A Node is 10 to 40 kB on the wire; this package keeps some hundred bytes (see
// node.go). It converts each Node as the Node arrives in the watch, and lists in
// pages, so a full list of large objects is never in memory.
package kube
