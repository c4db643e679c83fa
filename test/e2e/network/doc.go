// Package network has this project's own tests on a Kubernetes of real nodes: see
// internal/cluster, which makes it. "make e2e" runs them; by hand, with a cluster
// that "make e2e-up" has made, they are run by go test.
//
// Clients are sockets of the tests themselves in the network namespaces of pods,
// nodes and of the world outside. So tests say what they have seen, not what a
// program in a pod has printed. Servers are pods that Kubernetes has started.
//
// Invariant: a test leaves the cluster as it found it, whether it fails or not:
// all nodes ready, no pods. So tests can be run alone and in any order; and those
// that do nothing to nodes run side by side, since most of their time they wait
// for pods.
package network
