package registry

import (
	"errors"
	"net/netip"
	"slices"
)

// ErrNotReady is what Nodes returns until the registry has read its first full
// list.
var ErrNotReady = errors.New("the registry has not given its first full list of nodes yet")

// ErrAsked is part of ErrNotReady while a registry has only just been asked, so that
// nothing is wrong yet.
var ErrAsked = errors.New("waiting")

// Node is what the registry knows about one host. Whoever adds a field extends
// Equal, Check and the decoder of each registry.
type Node struct {
	Name string
	// Addresses are the host's addresses on the underlay, at most one of each
	// family, in the operator's order of preference.
	Addresses []netip.Addr
	// Subnets are the host's pod subnets, in the order in which pods get their
	// addresses.
	Subnets []netip.Prefix
	// NAT says that the network translates Addresses to those that the host has itself.
	NAT bool
}

// Equal reports whether two nodes are the same in everything.
func (n Node) Equal(o Node) bool {
	return n.Name == o.Name && n.NAT == o.NAT && slices.Equal(n.Addresses, o.Addresses) && slices.Equal(n.Subnets, o.Subnets)
}

// Registry gives the current set of nodes and signals its changes.
type Registry interface {
	// Nodes returns the current set, sorted by name and free of contradictions
	// (see Set); the caller must not modify it. A node that waits for its subnet
	// may be in the set. Before the first full list Nodes returns ErrNotReady.
	// After that it always returns a set: an error beside it says why the
	// registry refused a newer set, or which nodes are left out.
	Nodes() ([]Node, error)
	// Changed gets a value whenever Nodes may answer differently than before.
	// It holds at most one value and is never closed.
	Changed() <-chan struct{}
}

// Reporter is a registry that publishes the state of this host.
type Reporter interface {
	// ReportNetwork takes the result of each round. It doesn't block.
	ReportNetwork(Report)
}

// Report says how this host is. It has nothing about other hosts: what is wrong with one
// of thousands must not make thousands of reports.
type Report struct {
	// Down is why this host's pods can't be connected or can't reach others, or nil.
	Down error
	// Trouble is what else is wrong with this host, or nil.
	Trouble error
}

// Announcer is a registry in which hosts enter themselves.
type Announcer interface {
	// SetAddresses sets the addresses by which other hosts reach this host, at most
	// one of each family. It doesn't block, and may be repeated.
	SetAddresses(addrs []netip.Addr)
}

// OutageLogger is a registry that logs by itself why it has no nodes yet, with
// reminders, so that nobody else has to.
type OutageLogger interface {
	LogsOutages()
}

// Sharer is a registry that holds settings for all hosts.
type Sharer interface {
	// Settings returns the settings as a YAML document, nil if there are none.
	// They change only together with a value in Changed.
	Settings() []byte
}
