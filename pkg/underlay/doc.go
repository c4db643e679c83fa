// Package underlay finds the interface that carries the tunnel, and the host's
// own address on it.
//
// Invariant: the choice is a pure function of what was asked for and of the
// interfaces, addresses and routes there are. Where several answers are
// possible the same one is given every time.
package underlay
