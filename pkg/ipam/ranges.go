package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// Range is a part of a subnet from which pods get addresses. Complete replaces zero
// values by defaults, except for Subnet.
type Range struct {
	Subnet  netip.Prefix
	Start   netip.Addr     // default: the first usable address
	End     netip.Addr     // inclusive; default: the last usable one
	Gateway netip.Addr     // default: the first usable one; it is never given
	Exclude []netip.Prefix // addresses that are never given
}

// RangeSet is a list of ranges of one address family. A pod gets one address from
// each set of the configuration.
type RangeSet []Range

// FromSubnets returns range sets of whole subnets: one set for each address family,
// in the order of each family's first subnet.
func FromSubnets(subnets []netip.Prefix) []RangeSet {
	var sets []RangeSet
	for _, p := range subnets {
		i := slices.IndexFunc(sets, func(s RangeSet) bool { return s[0].Subnet.Addr().Is4() == p.Addr().Is4() })
		if i < 0 {
			i, sets = len(sets), append(sets, nil)
		}
		sets[i] = append(sets[i], Range{Subnet: p})
	}
	return sets
}

// Complete returns the range sets with defaults filled in, or says what is
// wrong with them.
func Complete(sets []RangeSet) ([]RangeSet, error) {
	var all []Range
	done := make([]RangeSet, len(sets))
	for i, set := range sets {
		if len(set) == 0 {
			return nil, fmt.Errorf("range set %d is empty: it needs a range such as {\"subnet\": \"10.244.1.0/24\"}", i+1)
		}
		for _, r := range set {
			r, err := r.complete()
			if err != nil {
				return nil, err
			}
			if err := r.fits(done[i], all); err != nil {
				return nil, err
			}
			done[i] = append(done[i], r)
			all = append(all, r)
		}
	}
	return done, nil
}

// fits compares r with the earlier ranges: set has those of its own set, and all
// has those of all sets.
func (r Range) fits(set RangeSet, all []Range) error {
	if len(set) > 0 && set[0].Subnet.Addr().Is4() != r.Subnet.Addr().Is4() {
		return fmt.Errorf("subnets %s and %s are in one range set but of two address families: give each family a set of its own", set[0].Subnet, r.Subnet)
	}
	for _, o := range all {
		if o.Start.Compare(r.End) <= 0 && r.Start.Compare(o.End) <= 0 {
			return fmt.Errorf("ranges %s and %s overlap: an address can only be in one", o, r)
		}
		if r.Contains(o.Gateway) || o.Contains(r.Gateway) {
			return fmt.Errorf("ranges %s and %s: one has the other's gateway among its pod addresses: exclude the gateway there", o, r)
		}
	}
	return nil
}

func (r Range) complete() (Range, error) {
	if !r.Subnet.IsValid() {
		return r, errors.New("a range has no subnet: it needs one such as \"10.244.1.0/24\"")
	}
	if err := subnet.Check(r.Subnet); err != nil {
		return r, err
	}
	if !r.Gateway.IsValid() {
		r.Gateway = subnet.Gateway(r.Subnet)
	}
	first, last := usable(r.Subnet)
	if !r.Start.IsValid() {
		r.Start = first
	}
	if !r.End.IsValid() {
		r.End = last
	}
	for _, a := range []struct {
		key  string
		addr netip.Addr
	}{{"gateway", r.Gateway}, {"rangeStart", r.Start}, {"rangeEnd", r.End}} {
		if a.addr.Zone() != "" {
			return r, fmt.Errorf("%s %s of subnet %s has a zone: write %s", a.key, a.addr, r.Subnet, a.addr.WithZone(""))
		}
		if a.addr.Compare(first) < 0 || a.addr.Compare(last) > 0 {
			return r, fmt.Errorf("%s %s is not a usable address of subnet %s: use one from %s to %s", a.key, a.addr, r.Subnet, first, last)
		}
	}
	if r.End.Compare(r.Start) < 0 {
		return r, fmt.Errorf("rangeStart %s is after rangeEnd %s", r.Start, r.End)
	}
	for _, x := range r.Exclude {
		if !x.Overlaps(r.Subnet) {
			return r, fmt.Errorf("excluded %s is not in subnet %s", x, r.Subnet)
		}
	}
	if !r.first().IsValid() {
		return r, fmt.Errorf("range %s has no address for a pod: all are taken by the gateway and exclude", r)
	}
	return r, nil
}

// usable returns the first and last address of p that a host can have: neither the
// network's own address, nor the broadcast address, which only IPv4 has.
func usable(p netip.Prefix) (first, last netip.Addr) {
	last = subnet.Last(p)
	if last.Is4() {
		last = last.Prev()
	}
	return p.Addr().Next(), last
}

func (r Range) String() string { return fmt.Sprintf("%s-%s", r.Start, r.End) }

// Contains tells whether addr may be given to a pod.
func (r Range) Contains(addr netip.Addr) bool { return addr.IsValid() && r.from(addr) == addr }

func (r Range) first() netip.Addr { return r.from(r.Start) }

// from returns the lowest address from addr on that may be given to a pod, or the
// zero Addr if there is none.
func (r Range) from(addr netip.Addr) netip.Addr {
	if addr.Compare(r.Start) < 0 {
		addr = r.Start
	}
	for skipped := true; skipped; {
		if addr.Compare(r.End) > 0 || !addr.IsValid() {
			return netip.Addr{}
		}
		skipped = false
		if addr == r.Gateway {
			addr, skipped = addr.Next(), true
			continue
		}
		for _, x := range r.Exclude {
			if x.Contains(addr) {
				addr, skipped = subnet.Last(x).Next(), true
			}
		}
	}
	return addr
}

// Find returns the range from which addr may be given to a pod.
func (s RangeSet) Find(addr netip.Addr) (Range, bool) {
	for _, r := range s {
		if r.Contains(addr) {
			return r, true
		}
	}
	return Range{}, false
}

// next returns the address after prev. After the last address of the set comes the
// first. prev need neither be in the set nor be valid.
func (s RangeSet) next(prev netip.Addr) netip.Addr {
	for i, r := range s {
		if prev.Compare(r.Start) < 0 || prev.Compare(r.End) > 0 || !prev.IsValid() {
			continue
		}
		if a := r.from(prev.Next()); a.IsValid() {
			return a
		}
		return s[(i+1)%len(s)].first()
	}
	return s[0].first()
}

// size returns how many addresses the set has for pods, at most math.MaxUint64.
func (s RangeSet) size() uint64 {
	var n uint64
	for _, r := range s {
		n = saturatingAdd(n, r.size())
	}
	return n
}

// size adds up the stretches between excluded addresses, because a range of IPv6
// has too many addresses to visit each.
func (r Range) size() uint64 {
	var n uint64
	for at := r.first(); at.IsValid(); {
		end := r.End
		for _, x := range append([]netip.Prefix{subnet.Host(r.Gateway)}, r.Exclude...) {
			if a := x.Masked().Addr(); a.Compare(at) > 0 && a.Prev().Compare(end) < 0 {
				end = a.Prev()
			}
		}
		n = saturatingAdd(n, saturatingAdd(distance(at, end), 1))
		at = r.from(end.Next())
	}
	return n
}

// distance returns b - a for a <= b of one family, at most math.MaxUint64.
func distance(a, b netip.Addr) uint64 {
	x, y := a.As16(), b.As16()
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(y[8:]), binary.BigEndian.Uint64(x[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(y[:8]), binary.BigEndian.Uint64(x[:8]), borrow)
	if high > 0 {
		return math.MaxUint64
	}
	return low
}

func saturatingAdd(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry > 0 {
		return math.MaxUint64
	}
	return sum
}

// String names the subnets of the set, for messages.
func (s RangeSet) String() string {
	text := ""
	for i, r := range s {
		if i > 0 {
			text += ", "
		}
		text += r.Subnet.String()
		if first, last := usable(r.Subnet); r.End != last || (r.Start != first && r.Start != first.Next()) {
			text += " (" + r.Start.String() + "-" + r.End.String() + ")"
		}
	}
	return text
}
