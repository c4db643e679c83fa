// Package cnifiles keeps the two files by which a container runtime finds the
// plugin: the program, and the network configuration that names it.
//
// Invariant: each file is absent or whole at any moment, because a rename within
// its directory puts it in place. Before the rename its name begins with a dot and
// ends in .next; no runtime reads such a file.
//
// The configuration is desired state: Config.Sync reads the file each time and
// repairs it. Only Remove removes it: kubelet gives a node without a network
// configuration no pods, so a daemon that ends leaves the file where it is.
package cnifiles
