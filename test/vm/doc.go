// Vm tests the plugin and the daemon in virtual machines: with the kernel that
// Debian ships, which is older than most, and with modules that aren't loaded
// yet or are missing. `make e2e-vm` runs it.
//
// It holds what only another kernel and a real boot show: modules, virtual
// network cards, br_netfilter, SCTP, and a power cut. Nodes that join and leave,
// and daemons that are killed, are in test/hosts.
//
// The machines are emulated, so any machine can run it: no KVM, no images. They
// are made of Debian packages, which are downloaded once and not installed. The
// same program runs outside, as the one that asks, and in each machine, as its
// first process (internal/guest).
//
// Invariant: the machines are on a wire of their own, in namespaces that end
// with this program, and so do they.
package main
