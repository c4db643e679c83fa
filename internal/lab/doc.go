// Package lab builds a small data centre out of network namespaces: a switch,
// hosts on it that run a real overlayd, and pods made by the real CNI plugin as
// a container runtime makes them.
//
// Invariant: the lab only stages. Whatever makes pods reach each other was done
// by the programs under test; the lab sets no route, address or rule beyond
// what any new machine has. It works in a sandbox only.
package lab
