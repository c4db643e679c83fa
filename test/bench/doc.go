// Bench measures what it costs to connect a pod, and to take it off again:
// overlay-cni, other CNI plugins, and the kernel's work alone, in one run.
// docs/benchmarks.md says what is measured, and how to add plugins of your own.
//
// Invariant: all sets are treated alike. Each set has a host of its own, in
// namespaces that vanish with the program. Its plugins are called from threads in
// that host's namespace, for pods whose namespaces exist. Each set has a turn in
// every round, in an order that changes from round to round. So a disturbance of the
// machine disturbs all sets, and the ratios hold even if the times don't.
package main
