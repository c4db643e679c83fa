package firewall

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// Range is an element of an interval set: all addresses from First to Last,
// both of one family.
type Range struct {
	First, Last netip.Addr
}

// String writes a range as nft does: as an address, or as two with a dash.
func (r Range) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return fmt.Sprintf("%s-%s", r.First, r.Last)
}

// Merge is the shortest sorted list of ranges that covers the prefixes, all of
// them of one family. The kernel refuses elements of a set that overlap.
func Merge(prefixes []netip.Prefix) []Range {
	var merged []Range
	for _, p := range subnet.Sort(prefixes) {
		r := Range{First: p.Masked().Addr(), Last: subnet.Last(p)}
		if n := len(merged); n > 0 && touches(merged[n-1], r) {
			merged[n-1].Last = higher(merged[n-1].Last, r.Last)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// touches tells whether b, which does not begin before a, overlaps a or begins
// right after it.
func touches(a, b Range) bool {
	after := a.Last.Next() // invalid if a ends with the highest address
	return !after.IsValid() || !after.Less(b.First)
}

func higher(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

// without lists what is in a and not in b, in a's order.
func without(a, b []Range) []Range {
	in := make(map[Range]struct{}, len(b))
	for _, r := range b {
		in[r] = struct{}{}
	}
	return slices.DeleteFunc(slices.Clone(a), func(r Range) bool {
		_, found := in[r]
		return found
	})
}

// boundary is how the kernel stores an interval set: the first address of each
// range, and the first one after it.
type boundary struct {
	at  netip.Addr
	end bool
}

// boundaries of a range; one that reaches the highest address has no end.
func (r Range) boundaries() []boundary {
	start := boundary{at: r.First}
	if after := r.Last.Next(); after.IsValid() {
		return []boundary{start, {at: after, end: true}}
	}
	return []boundary{start}
}

// compare orders boundaries by address, an end before the start of the range
// that follows at once.
func (b boundary) compare(o boundary) int {
	if c := b.at.Compare(o.at); c != 0 || b.end == o.end {
		return c
	}
	if b.end {
		return -1
	}
	return 1
}

// elementsOf is the inverse of boundaries: it pairs them, in whatever order the
// kernel gave them.
//
// nft puts an end at the lowest address into a set that it adds the first
// element to. It ends nothing and matches nothing, and is not counted.
func elementsOf(bs []boundary) Elements {
	slices.SortFunc(bs, boundary.compare)
	var e Elements
	var open *boundary
	for i, b := range bs {
		switch {
		case b.end && open != nil:
			e.Ranges = append(e.Ranges, Range{First: open.at, Last: b.at.Prev()})
			open = nil
		case b.end && b.at.Prev().IsValid(), !b.end && open != nil:
			e.Stray++
		case !b.end:
			open = &bs[i]
		}
	}
	if open != nil {
		e.Ranges = append(e.Ranges, Range{First: open.at, Last: subnet.Last(netip.PrefixFrom(open.at, 0))})
	}
	return e
}
