// Package nodestate is what the daemon tells the CNI plugin about the node: one
// small file in the network's state directory.
//
// Invariant: readers find a whole file or none, because a rename puts the file in
// place. The file outlives the daemon, so that pods are created while the daemon
// restarts. It goes with a reboot, after which nothing in it could be trusted.
package nodestate
