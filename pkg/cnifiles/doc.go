// Package cnifiles keeps the two files by which a container runtime finds the
// plugin: the program, and the network configuration that names it.
//
// Invariant: each of them is absent or whole at any moment, because it is only
// ever put in place by a rename within its directory. The name that it has
// before that begins with a dot and ends in .next, which no runtime reads.
//
// The configuration is desired state: Config.Sync reads it each time and mends
// it. It is never taken away but by Remove: kubelet gives a node no pods while
// there is none, so a daemon that ends leaves it where it is.
package cnifiles
