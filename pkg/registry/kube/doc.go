// Package kube is the registry of a Kubernetes cluster: its Node objects.
//
//	name        metadata.name
//	addresses   annotation overlay-cni.io/address, else status.addresses
//	subnets     spec.podCIDRs
//
// Invariant: what Nodes returns follows from the server's last word about each
// node, and a node with a mistake in it costs no other node its place in the
// set. An API server that is away changes nothing.
//
// A node is 10 to 40 kB on the wire, of which this package wants some hundred
// bytes. It reads those from the stream and never holds a whole list, so that
// memory follows from what is kept (see wire.go and node.go).
package kube
