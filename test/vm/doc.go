// Vm tests the plugin and the daemon in virtual machines: with the kernel that
// Debian ships, which is older than most, and with modules that aren't loaded
// yet, or aren't there. `make e2e-vm` runs it.
//
// The machines are emulated, so any machine can run it: no KVM, no images. They
// are made of Debian packages, which are downloaded once and not installed. The
// same program runs outside, as the one that asks, and in each machine, as its
// first process (internal/guest).
//
// Invariant: the machines are on a wire of their own, in namespaces that end
// with this program, and so do they.
package main
