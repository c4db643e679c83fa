package iptables

import (
	"net/netip"

	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// aggregate is the shortest sorted list of prefixes that covers the same
// addresses as the given ones, all of one family. Nodes' subnets are mostly
// given out one after another, so a few prefixes cover them all.
func aggregate(prefixes []netip.Prefix) []netip.Prefix {
	var done []netip.Prefix
	for _, p := range subnet.Sort(prefixes) {
		done = push(done, p.Masked())
	}
	return done
}

// push appends p, which no element of done begins after, and joins halves.
func push(done []netip.Prefix, p netip.Prefix) []netip.Prefix {
	for len(done) > 0 {
		last := done[len(done)-1]
		if last.Overlaps(p) { // so last begins no later, and contains p
			return done
		}
		whole := netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked()
		if last.Bits() != p.Bits() || !whole.Contains(last.Addr()) {
			break
		}
		done, p = done[:len(done)-1], whole
	}
	return append(done, p)
}
