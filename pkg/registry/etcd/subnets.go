package etcd

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// pool is a network and how it is divided among hosts. Its subnets are
// numbered from 0.
type pool struct {
	network netip.Prefix
	length  int // of a subnet, in bits
	exclude []netip.Prefix
}

// maxSplit bounds by how many bits a subnet's prefix may be longer than its
// network's. No cluster needs more than 2^32 subnets, and their numbers fit in a
// uint64.
const maxSplit = 32

// size is the number of subnets.
func (p pool) size() uint64 { return 1 << (p.length - p.network.Bits()) }

// fits reports whether s is one of the subnets that hosts may have.
func (p pool) fits(s netip.Prefix) bool {
	return s.Bits() == p.length && s == s.Masked() && p.network.Contains(s.Addr()) &&
		!slices.ContainsFunc(p.exclude, s.Overlaps)
}

// shift is how many bits of a 128-bit address are to the right of the subnet's
// number. An IPv4 address counts as ::ffff:a.b.c.d.
func (p pool) shift() int { return p.network.Addr().BitLen() - p.length }

// subnet returns the subnet with number i.
func (p pool) subnet(i uint64) netip.Prefix {
	b := p.network.Addr().As16()
	high, low := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	// Shifting a uint64 by 64 or more gives 0, by less than 0 panics.
	if shift := p.shift(); shift >= 64 {
		high |= i << (shift - 64)
	} else {
		high |= i >> (64 - shift)
		low |= i << shift
	}
	binary.BigEndian.PutUint64(b[:8], high)
	binary.BigEndian.PutUint64(b[8:], low)
	addr := netip.AddrFrom16(b)
	if p.network.Addr().Is4() {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, p.length)
}

// number returns the number of the subnet that contains a. The address a must be
// inside the network.
func (p pool) number(a netip.Addr) uint64 {
	mask := p.size() - 1
	b := a.As16()
	high, low := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	shift := p.shift()
	if shift >= 64 {
		return high >> (shift - 64) & mask
	}
	return (high<<(64-shift) | low>>shift) & mask
}

// span is a range of subnets by number, both included.
type span struct{ first, last uint64 }

// span returns the subnets of the pool that a prefix overlaps. The prefix may be
// smaller than a subnet or larger.
func (p pool) span(taken netip.Prefix) (span, bool) {
	if !p.network.Overlaps(taken) {
		return span{}, false
	}
	if taken.Bits() <= p.network.Bits() {
		return span{0, p.size() - 1}, true
	}
	first := p.number(taken.Masked().Addr())
	return span{first, first + 1<<max(0, p.length-taken.Bits()) - 1}, true
}

// free finds the first free subnet, from number start to the end of the pool and
// then from its beginning.
func (p pool) free(start uint64, taken []netip.Prefix) (netip.Prefix, bool) {
	var spans []span
	for _, list := range [][]netip.Prefix{p.exclude, taken} {
		for _, t := range list {
			if s, ok := p.span(t); ok {
				spans = append(spans, s)
			}
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	start %= p.size()
	i, ok := gap(spans, span{start, p.size() - 1})
	if !ok && start > 0 {
		i, ok = gap(spans, span{0, start - 1})
	}
	if !ok {
		return netip.Prefix{}, false
	}
	return p.subnet(i), true
}

// gap finds the lowest number inside of the range and outside of all spans,
// which are sorted by first.
func gap(spans []span, within span) (uint64, bool) {
	next := within.first
	for _, s := range spans {
		if s.first > next {
			break
		}
		next = max(next, s.last+1)
	}
	return next, next <= within.last
}
