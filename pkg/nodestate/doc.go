// Package nodestate writes and reads the file by which the daemon tells the CNI
// plugin about the node: one small file in the network's state directory.
//
// Invariant: readers find a whole file or none, because a rename puts the file
// in place. The file outlives the daemon, so pods can be created while the
// daemon restarts. A reboot removes the file, because afterwards its content may
// be out of date.
package nodestate
