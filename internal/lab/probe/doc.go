// Package probe tests a network from inside its namespaces with sockets of its
// own. It needs no ping, nc or iperf3.
//
// Invariant: an answer counts only if it answers this probe's own question, and
// every wait ends with the context. The address family follows from the addresses.
package probe
