// Package daemon runs the rounds that keep a host in its desired state, which
// follows from the registry, the configuration and the underlay.
//
// Invariant: a round reads its inputs, computes the desired state and syncs every
// part. What is remembered from earlier rounds only saves work, and a resync reads
// everything. So a restart, a lost
// event and a change by somebody else are the same case. Ending the daemon changes
// nothing in the kernel: pods keep talking.
package daemon
