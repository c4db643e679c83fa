// Package daemon puts the parts together: from what the registry, the
// configuration and the underlay say it computes what this host should have,
// and has each part make it so.
//
// Invariant: nothing here remembers what was done before. Every run starts
// from the registry and the kernel as they are, so a restart, a lost event and
// a change by somebody else's hand are all the same case. What is as it was in
// the run before is not computed again, nor is read what the kernel would have
// told a change of, but for once in a resync. Ending the daemon changes nothing
// in the kernel: pods keep talking.
package daemon
