// Package daemon runs the rounds that keep a host as the registry, the
// configuration and the underlay say.
//
// Invariant: a round starts from its inputs as they are now, computes the desired
// state and has every part make the host so. What is remembered from earlier
// rounds only saves work, and a resync reads everything. So a restart, a lost
// event and a change by somebody else are the same case. Ending the daemon changes
// nothing in the kernel: pods keep talking.
package daemon
