// Package underlay finds the interface that carries the tunnel, and the host's
// own address on it.
//
// Invariant: the choice is a pure function of the Spec and of the host's interfaces,
// addresses and routes. Where several answers are possible, it takes the one with the
// best evidence, and of equals what carries the tunnel already. It follows the registry
// and not what the host happens to have at the moment: an address that is away for a
// moment makes the choice fail, and nothing else takes its place.
package underlay
