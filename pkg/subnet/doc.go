// Package subnet holds the pure functions that derive a node's addresses from its
// pod subnets: gateway, VTEP address and MAC address.
//
// Invariant: the result depends on the arguments alone and never changes between
// versions, because nodes compute it about each other instead of publishing it.
package subnet
