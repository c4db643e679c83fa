// Package host says what overlay-cni has on a host: the desired state, computed
// by a pure function, and the list of parts that make the host so.
//
// Invariant: a Desired is a value that follows from an Input alone and that nobody
// modifies. Only the parts touch the kernel and files.
package host
