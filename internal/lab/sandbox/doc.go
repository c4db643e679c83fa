// Package sandbox runs the program again inside namespaces of its own, and
// makes named network namespaces there. The demo and every test that touches
// the kernel run in it, as root or not.
//
// Invariant: nothing outlives the sandbox. The program in it is the first
// process of a process namespace, so when it ends, however it ends, the kernel
// ends every other process in there, and with the last one go the mounts, the
// network namespaces, their links and the files in /run. No clean-up code has
// to run for that. And network namespaces are made in a sandbox only, never on
// the machine itself.
package sandbox
