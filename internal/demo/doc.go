// Package demo shows the product at work on one machine: hosts as network
// namespaces, a real overlayd on each, pods made by the real CNI plugin.
//
// Invariant: a check that says ok has seen what its line claims, with packets
// or in the kernel's tables. Nothing is taken from what overlayd says of itself.
package demo
