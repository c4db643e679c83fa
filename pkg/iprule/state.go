package iprule

import (
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// Protocol is the protocol number (FRA_PROTOCOL) of our rules. It is among those that
// our routes have.
const Protocol = 208

// State is the desired state.
type State struct {
	// Own are this host's pod subnets, and Subnets those of all hosts.
	Own, Subnets []netip.Prefix
	// Bridge and Tunnel are the interfaces that lead to pods of this host and of others.
	Bridge, Tunnel string
	// Sources are addresses of this host.
	Sources []netip.Addr
	// Tunneled are subnets of other hosts that the tunnel leads to.
	Tunneled []netip.Prefix
}

// network is the part of the pod network that one rule is for.
type network struct {
	to netip.Prefix
	// minBits is the length of the largest pod subnet.
	minBits int
}

// maxNetworks bounds the number of rules of a family. Every packet of the host is
// compared with each of them.
const maxNetworks = 8

// networks returns what together has all pod subnets of a family. There are gaps
// between these if the subnets have gaps.
func (s State) networks(f family.Family) []network {
	if len(f.Filter(s.Own)) == 0 {
		return nil // the tunnel has no routes of that family
	}
	subnets := f.Filter(s.Subnets)
	minBits := f.Bits()
	for _, p := range subnets {
		minBits = min(minBits, p.Bits())
	}
	var all []network
	for _, p := range cover(subnets, maxNetworks) {
		all = append(all, network{p, minBits})
	}
	return all
}

// cover returns at most limit prefixes that have all of the given ones, of one family,
// and adds as little as it can: it keeps those apart that have least in common.
func cover(prefixes []netip.Prefix, limit int) []netip.Prefix {
	all := whole(subnet.Sort(prefixes))
	if len(all) <= limit {
		return all
	}
	// The positions after which the list is cut.
	cuts := make([]int, len(all)-1)
	for i := range cuts {
		cuts[i] = i
	}
	slices.SortStableFunc(cuts, func(a, b int) int { return common(all[a], all[a+1]).Bits() - common(all[b], all[b+1]).Bits() })
	cuts = append(cuts[:limit-1], len(all)-1)
	slices.Sort(cuts)
	var few []netip.Prefix
	first := 0
	for _, last := range cuts {
		few = append(few, common(all[first], all[last]))
		first = last + 1
	}
	return few
}

// whole joins halves of a larger prefix, and drops what is in another. The list is
// sorted, larger ones first.
func whole(sorted []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range sorted {
		if n := len(all); n > 0 && all[n-1].Overlaps(p) {
			continue
		}
		all = append(all, p)
		for n := len(all); n > 1; n = len(all) {
			a, b := all[n-2], all[n-1]
			joined := common(a, b)
			if a.Bits() != b.Bits() || joined.Bits() != a.Bits()-1 {
				break
			}
			all = append(all[:n-2], joined)
		}
	}
	return all
}

// common returns the smallest prefix that has both.
func common(a, b netip.Prefix) netip.Prefix {
	for bits := min(a.Bits(), b.Bits()); ; bits-- {
		if p := netip.PrefixFrom(a.Addr(), bits).Masked(); p.Contains(b.Addr()) {
			return p
		}
	}
}
