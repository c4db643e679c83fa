// Package registry tells which nodes there are: name, underlay addresses, pod
// subnets. Implementations are in the packages below it.
//
// Invariant: a set of nodes that contradicts itself (two nodes with one name,
// one address or overlapping subnets) never leaves this package.
package registry
