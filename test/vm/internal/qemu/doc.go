// Package qemu runs virtual machines, emulated unless the processor helps.
//
// Invariant: a machine has no other ways out than those it is given: a network
// device on one bridge in one network namespace, a serial line to the caller,
// and a console that is a file. It needs the sandbox to end it together with the
// caller.
package qemu
