// Package monitor reports that something changed in the kernel.
//
// Invariant: it does not report what changed. Notifications can be lost,
// because the socket's buffer is finite, and are stale when they are read. So
// they are good for one thing: a reason to read the kernel's state again.
package monitor
