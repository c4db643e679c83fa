// Package plugin is what the CNI plugin does for each command of the CNI
// specification (version 1.1.0, https://www.cni.dev/docs/spec/).
//
// Invariant: an ADD that fails leaves nothing behind, by doing what a DEL does,
// and a DEL needs nothing to be there. Both find everything by the container's
// id and the interface's name alone, so they also clean up after an ADD that
// was killed at any point.
//
// The package must stay small: a process that runs it is started for each pod.
package plugin
