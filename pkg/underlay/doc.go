// Package underlay finds the interface that carries the tunnel, and the host's
// own address on it.
//
// Invariant: the choice is a pure function of the Spec and of the host's interfaces,
// addresses and routes. Where several answers are possible, it gives the same one
// every time.
package underlay
