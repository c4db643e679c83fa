package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// Hosts learn of a change of the registry at different times, and take the tunnel's
// packets from registered addresses alone. So that no packet is lost when a host's
// address changes, the host goes on to send from the old address for some time if it
// still has it, and other hosts take packets from there for longer.
const (
	holdAddress = 3 * time.Second
	keepAddress = 10 * time.Second
)

// moves remembers what the registry and the underlay were until lately.
type moves struct {
	nodes  []registry.Node // as of the last round, sorted by name
	former map[netip.Addr]former
	// used is the underlay of the last round, and moved when another address was first
	// found on it.
	used  underlay.Underlay
	moved time.Time
}

// former is an address that a node had.
type former struct {
	node  string
	until time.Time
}

// addresses returns the addresses that nodes had until lately, in order, and after
// what time the first of them is no longer taken. A node that left the registry has
// none.
func (m *moves) addresses(nodes []registry.Node, now time.Time) (all []netip.Addr, left time.Duration) {
	if m.former == nil {
		m.former = map[netip.Addr]former{}
	}
	was := m.nodes
	for _, n := range nodes {
		for len(was) > 0 && was[0].Name < n.Name {
			was = was[1:]
		}
		if len(was) == 0 || was[0].Name != n.Name {
			continue
		}
		for _, a := range was[0].Addresses {
			if !slices.Contains(n.Addresses, a) {
				m.former[a] = former{n.Name, now.Add(keepAddress)}
			}
		}
	}
	m.nodes = nodes
	for a, f := range m.former {
		_, there := slices.BinarySearchFunc(nodes, f.node, func(n registry.Node, name string) int { return strings.Compare(n.Name, name) })
		if !there || !now.Before(f.until) {
			delete(m.former, a)
			continue
		}
		all = append(all, a)
		if left == 0 || f.until.Sub(now) < left {
			left = f.until.Sub(now)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all, left
}

// hold returns the underlay with the address of the last round, as long as this host
// has just got another one and still has that one. The time is what is left of holding
// it; 0 means that u is the underlay.
func (m *moves) hold(u underlay.Underlay, find func(config.Underlay) (underlay.Underlay, error), now time.Time) (underlay.Underlay, time.Duration) {
	if m.used.Name == u.Name && m.used.Address != u.Address && family.Of(m.used.Address) == family.Of(u.Address) {
		if m.moved.IsZero() {
			m.moved = now
		}
		left := holdAddress - now.Sub(m.moved)
		held, err := find(config.Underlay{Address: m.used.Address})
		if left > 0 && err == nil && held.Name == u.Name {
			m.used = held
			return held, left
		}
	}
	m.used, m.moved = u, time.Time{}
	return u, 0
}
