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
	// Validate); the caller must not modify it. A node that has not got its
	// subnet yet may be among them. It returns ErrNotReady before the first
	// full list. After that there is always a set: an error beside it says why
	// a newer one was refused, or which nodes were left out of it.
	Nodes() ([]Node, error)
	// Changed gets a value whenever Nodes may answer differently than before.
	// It holds one value at most, carries no payload and is never closed.
	Changed() <-chan struct{}
}

// Reporter is a registry that wants to know how this host does.
type Reporter interface {
	// ReportNetwork says after each round whether this host's pods can be
	// connected and reach others, and if not, why. It doesn't block.
	ReportNetwork(down error)
}

// Announcer is a registry in which hosts enter themselves.
type Announcer interface {
	// SetAddresses says by which addresses the others reach this host, at most
	// one a family. It doesn't block, and may be called with the same ones
	// again.
	SetAddresses(addrs []netip.Addr)
}

// Sharer is a registry that holds settings for all hosts.
type Sharer interface {
	// Settings returns them as a YAML document, nil if there are none. They may
	// change whenever Changed says so.
	Settings() []byte
}
