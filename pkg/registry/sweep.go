package registry

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// claim is a part of the address space that a node has: a pod subnet, or the
// one address of the host.
type claim struct {
	span netip.Prefix // without host bits
	rank int
	kind claimKind
}

type claimKind int

const (
	podSubnet claimKind = iota
	hostAddress
)

// sweep finds claims that collide. Two prefixes are disjoint or one holds the
// other, so after sorting by first address, larger first, whatever holds a
// claim is on a stack of those before it: n log n, where comparing each with
// each would take a minute for 20,000 nodes.
func (v *validator) sweep() {
	claims := v.claims()
	slices.SortFunc(claims, compareClaims)
	var open []claim // pod subnets, each inside the one before
	var lastHost claim
	for _, c := range claims {
		for len(open) > 0 && !holds(open[len(open)-1].span, c.span) {
			open = open[:len(open)-1]
		}
		if len(open) > 0 {
			v.collide(open[len(open)-1], c)
		}
		switch {
		case c.kind == podSubnet:
			open = append(open, c)
		case lastHost.span == c.span:
			v.sameAddress(lastHost, c)
		default:
			lastHost = c
		}
	}
}

// claims leaves out what can't be compared; it is a problem of its own.
func (v *validator) claims() []claim {
	var claims []claim
	for rank := range v.order {
		n := v.node(rank)
		for _, p := range n.Subnets {
			if p.IsValid() && !p.Addr().Is4In6() {
				claims = append(claims, claim{p.Masked(), rank, podSubnet})
			}
		}
		for _, a := range n.Addresses {
			if CheckAddress(a) == nil {
				claims = append(claims, claim{subnet.Host(a), rank, hostAddress})
			}
		}
	}
	return claims
}

func compareClaims(a, b claim) int {
	return cmp.Or(
		a.span.Addr().Compare(b.span.Addr()),
		cmp.Compare(a.span.Bits(), b.span.Bits()),
		cmp.Compare(a.kind, b.kind),
		cmp.Compare(a.rank, b.rank),
	)
}

// holds reports whether outer, which begins no later than inner and is no
// smaller, contains it.
func holds(outer, inner netip.Prefix) bool { return outer.Contains(inner.Addr()) }

func (v *validator) collide(outer, inner claim) {
	if inner.kind == hostAddress {
		v.addf(inner.rank, "address %s lies inside pod subnet %s of %s: give the host an address outside of all pod subnets",
			inner.span.Addr(), outer.span, v.label(outer.rank))
		return
	}
	if inner.rank == outer.rank {
		v.addf(inner.rank, "pod subnets %s and %s overlap: remove one", outer.span, inner.span)
		return
	}
	later, earlier := inner, outer
	if later.rank < earlier.rank {
		later, earlier = earlier, later
	}
	v.addf(later.rank, "pod subnet %s overlaps pod subnet %s of %s: give each node subnets of its own",
		later.span, earlier.span, v.label(earlier.rank))
}

func (v *validator) sameAddress(first, second claim) {
	if first.rank == second.rank {
		return // two addresses of one family: a problem already
	}
	v.addf(second.rank, "address %s is that of %s, too: each host needs an address of its own",
		second.span.Addr(), v.label(first.rank))
}
