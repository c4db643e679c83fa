// Package uninstall takes off a host what the programs of overlay-cni made.
//
// Invariant: each step accepts that there is nothing to do, and one that fails
// does not stop the others, so an uninstall that was killed is just run again.
// What is not ours is left alone. The sysctls that were turned on stay: others
// may have come to rely on them.
//
// The order is that of ADD backwards, with the network configuration before
// everything else, so that no pod is made meanwhile, and the program last, for
// without it the runtime can't take off a pod that this package could not.
package uninstall
