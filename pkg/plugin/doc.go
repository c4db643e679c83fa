// Package plugin implements the commands of the CNI specification (version 1.1.0,
// https://www.cni.dev/docs/spec/).
//
// Invariant: an ADD that fails does what DEL does, and so leaves nothing behind. DEL
// succeeds if nothing is there. Both find everything by the container's id and the
// interface's name alone, so they clean up after an ADD that was killed at any
// point.
//
// The package must stay small: a runtime starts a process with it for each pod.
package plugin
