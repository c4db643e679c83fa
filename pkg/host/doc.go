// Package host defines what overlay-cni keeps on a host: the desired state, which a
// pure function computes, and the list of parts that sync it.
//
// Invariant: a Desired is a value that follows from an Input alone and that nobody
// modifies. Only the parts touch the kernel and files.
package host
