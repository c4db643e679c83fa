package registry

import (
	"errors"
	"net/netip"
)

// ErrNotReady is what Nodes returns until the first full list has been read.
var ErrNotReady = errors.New("the registry has not given its first full list of nodes yet")

// Node is what the registry knows about one host.
type Node struct {
	Name string
	// Addresses are the host's addresses on the underlay, at most one a
	// family, in the operator's order of preference.
	Addresses []netip.Addr
	// Subnets are the host's pod subnets, in the order in which pods get their
	// addresses.
	Subnets []netip.Prefix
}

// Registry gives the current set of nodes and says when it changed.
type Registry interface {
	// Nodes returns the full current set, sorted by name and validated (see
	// Validate); the caller must not modify it. It returns ErrNotReady before
	// the first full list. After that it always returns the last good set:
	// an error beside a non-nil set says why a newer one was refused.
	Nodes() ([]Node, error)
	// Changed gets a value whenever Nodes may answer differently than before.
	// It holds one value at most, carries no payload and is never closed.
	Changed() <-chan struct{}
}

// Reporter is a registry that wants to know how this host does.
type Reporter interface {
	// Report says after each round whether this host's pods can be connected
	// and reach others, and if not, why. It doesn't block.
	Report(down error)
}
