// Package guest is the program in a virtual machine, and how to talk to it from
// outside. It is the machine's first process: it mounts what every program
// expects, and then does what it is asked to over a serial line of its own,
// which has nothing to do with the network that is tested.
//
// Invariant: the machine lasts as long as the line. When the other end is
// closed, however, the machine turns itself off.
package guest
