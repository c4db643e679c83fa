// Package subnet holds the pure functions by which everything about a node
// follows from its pod subnets: gateway, VTEP address and MAC, MTU overhead.
//
// Invariant: the result depends on the arguments alone and never changes
// between versions, because nodes compute it about each other instead of
// publishing it.
package subnet
