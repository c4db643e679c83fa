// Command bench-scale measures what a network of many nodes costs one host's
// overlayd: its start, one change, many nodes that join at once, and nothing
// happening at all. It does so with real programs: overlayd as it is run, the
// kernel, and with the kube registry kube-apiserver and etcd.
//
// Invariant: what is timed is seen from outside. A clock starts with the
// program, or with a write to the registry, and stops when the kernel announces
// the last of the entries that have to follow: nothing is asked of overlayd and
// nothing is read from its log. Everything is in namespaces that vanish with
// the program.
package main
