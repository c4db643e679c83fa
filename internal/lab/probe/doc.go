// Package probe tries a network out from inside its namespaces with sockets of
// its own: it needs no ping, no nc, no iperf3.
//
// Invariant: a probe says only what it has seen. An answer counts when it is
// the answer to this probe's own question, and every wait ends with the
// context. The address family follows from the addresses given.
package probe
