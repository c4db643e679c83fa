// Package nodestate is what the daemon tells the CNI plugin about the node, as
// one small file in the run directory.
//
// Invariant: the file is either absent or whole, because it is only ever put
// in place by a rename. It outlives the daemon, so that pods are created while
// the daemon is restarted, and goes with a reboot, after which nothing in it
// could be trusted.
package nodestate
