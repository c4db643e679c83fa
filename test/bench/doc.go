// Bench measures what it costs to connect a pod, and to take it off again:
// overlay-cni, other CNI plugins, and the kernel's work alone, in one run.
// docs/benchmarks.md says what is measured, and how to add plugins of your own.
//
// Invariant: all sets are treated alike. Each has a host of its own, in
// namespaces that vanish with the program, is called from threads that are in
// that host's namespace already, gets pods whose namespaces are there already,
// and has its turn in every round, in an order that changes from round to
// round. So what disturbs the machine disturbs all of them, and the ratios
// hold even where the times don't.
package main
