package vxlan

import (
	"net/netip"
	"reflect"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// Goal is a desired state that changes little from one time to the next. What
// it costs to set it anew follows from what changed, but for a comparison of
// the old nodes with the new ones. The zero value is ready.
//
// Invariant: its state is what Desired computes, whatever it was before.
type Goal struct {
	in    Input
	state State
	err   error
	// changed are the entries that may be others than when Kernel.Keep last
	// planned for them.
	changed keys
}

// keys name entries by what the kernel knows them by.
type keys struct {
	// all says that any entry may be meant.
	all       bool
	routes    set[netip.Prefix]
	neighbors set[netip.Addr]
	forwards  set[MAC]
}

type set[K comparable] map[K]struct{}

// Set makes in what the goal follows from, and returns the desired state and
// the error as Desired does. The state is good until the next call; the nodes
// must not be modified after it.
func (g *Goal) Set(in Input) (State, error) {
	if !g.amend(in) {
		g.state, g.err = Desired(in)
		g.changed = keys{all: true}
	}
	g.in = in
	return g.state, g.err
}

// amend takes over which nodes changed. It gives up, with the state in
// disorder, if more than that changed or a peer has to be left out: which one
// depends on all of them.
func (g *Goal) amend(in Input) bool {
	if g.err != nil || g.state.Device.Name == "" || !sameSurroundings(g.in, in) {
		return false
	}
	gone, come := registry.Diff(g.in.Nodes, in.Nodes)
	for _, peer := range gone {
		g.drop(peer, in)
	}
	for _, peer := range come {
		if !g.add(peer, in) {
			return false
		}
	}
	return true
}

// sameSurroundings says that two inputs differ in their nodes at most.
func sameSurroundings(a, b Input) bool {
	return a.Config == b.Config && a.Own.Equal(b.Own) && reflect.DeepEqual(a.Underlay, b.Underlay)
}

func (g *Goal) drop(peer registry.Node, in Input) {
	if peer.Name == in.Own.Name {
		return
	}
	part := g.entriesOf(peer, in)
	for p := range part.Routes {
		delete(g.state.Routes, p)
	}
	for ip := range part.Neighbors {
		delete(g.state.Neighbors, ip)
	}
	for mac := range part.Forwards {
		delete(g.state.Forwards, mac)
	}
	g.changed.add(part)
}

func (g *Goal) add(peer registry.Node, in Input) bool {
	if peer.Name == in.Own.Name {
		return true
	}
	if err := g.state.addPeer(peer, in); err != nil {
		return false
	}
	g.changed.add(g.entriesOf(peer, in))
	return true
}

// entriesOf is what there is for a peer alone.
func (g *Goal) entriesOf(peer registry.Node, in Input) State {
	part := newState(0)
	part.Device = g.state.Device
	// A peer that is left out alone would have been so among the others.
	_ = part.addPeer(peer, in)
	return part
}

// add adds the keys of a state's entries.
func (k *keys) add(s State) {
	for p := range s.Routes {
		put(&k.routes, p)
	}
	for ip := range s.Neighbors {
		put(&k.neighbors, ip)
	}
	for mac := range s.Forwards {
		put(&k.forwards, mac)
	}
}

func put[K comparable](s *set[K], k K) {
	if *s == nil {
		*s = set[K]{}
	}
	(*s)[k] = struct{}{}
}
