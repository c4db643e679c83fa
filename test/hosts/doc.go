// Package hosts tests the programs as they are run: the CNI plugin as a runtime
// runs it, the daemon as an operator does, on hosts made of network namespaces
// and against the real kernel. It has only tests.
package hosts
