// Package monitor tells that something changed in the kernel.
//
// Invariant: it says nothing about what changed. Notifications can be lost
// (the socket's buffer is finite) and are stale when they are read, so they
// are good for one thing: a reason to look again.
package monitor
