// Package image makes what a virtual machine boots: the kernel of a Debian tree,
// and a root file system in memory with the few programs and modules that the
// tests need.
//
// Invariant: machines share nothing that one of them could write to. Each has
// all files in its memory, may remove what it likes, and gets everything anew
// when it boots.
package image
