// Bench-path measures how fast pods talk to each other, on two hosts and on one:
// overlay-cni, a plain VXLAN and flannel's set-up, beside the hosts themselves, in
// one run. docs/benchmarks.md says what is measured.
//
// Invariant: all sets are treated alike. Each set has two hosts of its own, joined by
// a veth pair, in namespaces that vanish with the program. All sets carry the same
// loads, one set right after the other, and each round begins with another set. So a
// disturbance of the machine disturbs all sets, and the ratios hold even if the figures
// don't.
//
// Another set is a function that makes it, in the list of sets.go; another load is a
// row in loads.go.
package main
