// Package runtimes tests the CNI plugin with the container runtimes that
// people run it with, and both programs beside Docker's daemon, which has rules
// of its own. It has only tests, in a module of its own: the
// runtimes' clients are no dependencies of overlay-cni.
//
// Invariant: nothing of the machine is used but its programs. A runtime has
// its own namespaces (processes, mounts, network, IPC, host name, cgroups),
// its own /run, /etc, /opt and /var, and its cgroups are below one of the
// test's own, which goes with it.
package runtimes
