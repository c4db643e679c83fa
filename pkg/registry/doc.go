// Package registry tells which nodes there are: their names, underlay addresses
// and pod subnets. The packages below it read them from a file, the Kubernetes
// API or etcd.
//
// Invariant: nodes that contradict each other (one address or overlapping
// subnets) never leave this package together.
package registry
