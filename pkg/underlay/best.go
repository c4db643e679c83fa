package underlay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/family"
)

// best returns the interface with an address that is most likely the way to other
// hosts. It may not be usable: then it says best what is wrong.
func (s Spec) best(net Network, a netip.Addr) (Link, bool) {
	holders := net.holders(a)
	if len(holders) == 0 {
		return Link{}, false
	}
	return slices.MinFunc(holders, func(x, y Link) int {
		return slices.Compare(s.doubts(net, x, a), s.doubts(net, y, a))
	}), true
}

// doubts are what speaks against an interface with an address, the most important
// first; lower is better. What carries the tunnel stays, unless something better in
// kind appears: a choice between equals must not depend on which came first.
func (s Spec) doubts(net Network, l Link, a netip.Addr) []int {
	return []int{
		count(slices.Contains(s.Ours, l.Name)),
		count(l.Loopback),
		count(s.isAside(net, l)),
		count(!l.Up),
		count(slices.Contains(l.Leaving, a)),
		count(l.Name != s.Kept.Name),
		count(!l.Running),
		count(!net.hasDefaultOf(family.Of(a), l.Index)),
		count(slices.Contains(l.Transient, a)),
		l.Index,
	}
}

// isAside is Network.isAside, but for the bridge or bond that the tunnel's interface
// became a port of: it took over.
func (s Spec) isAside(net Network, l Link) bool {
	tookOver := slices.ContainsFunc(net.Links, func(port Link) bool { return port.Name == s.Kept.Name && port.Master == l.Index })
	return net.isAside(l) && !tookOver
}

func count(doubt bool) int {
	if doubt {
		return 1
	}
	return 0
}

// Kept is the interface that carries the tunnel, and the addresses by which other
// hosts reach this one there, the tunnel's first.
type Kept struct {
	Name      string
	Addresses []netip.Addr
}

// Kept is how an underlay is remembered.
func (u Underlay) Kept() Kept { return Kept{Name: u.Name, Addresses: u.Addresses} }

func (k Kept) has(a netip.Addr) bool { return slices.Contains(k.Addresses, a) }

// lasting returns the addresses that the interface has and is not about to lose.
func (k Kept) lasting(l Link) []netip.Addr {
	if k.Name != l.Name {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(k.Addresses), func(a netip.Addr) bool {
		return !slices.Contains(l.Addrs, a) || slices.Contains(l.Leaving, a)
	})
}

// kept returns what carries the tunnel, if it still can: the interface has the address,
// and a default route unless no interface has one.
func (s Spec) kept(net Network) (Link, netip.Addr, bool) {
	l, ok := net.find(func(l Link) bool { return l.Name == s.Kept.Name })
	if !ok || s.usable(l) != nil {
		return Link{}, netip.Addr{}, false
	}
	addrs := s.Kept.lasting(l)
	if len(addrs) == 0 || addrs[0] != s.Kept.Addresses[0] || !slices.Contains(s.families(), family.Of(addrs[0])) {
		return Link{}, netip.Addr{}, false
	}
	f := family.Of(addrs[0])
	if !net.hasDefaultOf(f, l.Index) && len(s.defaults(net, []family.Family{f})) > 0 {
		return Link{}, netip.Addr{}, false
	}
	return l, addrs[0], true
}

// away returns an error if the tunnel runs from an address in the registry that its
// interface has lost. Other hosts go on sending to the address, and mostly the host
// gets it back in a moment, from DHCP or with a new interface. So no other address
// takes its place.
func (s Spec) away(net Network, a netip.Addr) error {
	if !s.Kept.has(a) {
		return nil
	}
	l, ok := net.find(func(l Link) bool { return l.Name == s.Kept.Name })
	switch {
	case !ok:
		return fmt.Errorf("interface %q, which carried the tunnel and had %s, the registry's address of this host, is gone: bring it back, or correct the registry",
			s.Kept.Name, a)
	case slices.Contains(l.Addrs, a):
		return nil
	case !l.Up:
		return s.usable(l) // IPv6 addresses go with it
	}
	return fmt.Errorf("interface %q, which carries the tunnel, has lost %s, the registry's address of this host: add the address again, or correct the registry",
		s.Kept.Name, a)
}

// String writes the interface and the addresses on one line, for ParseKept.
func (k Kept) String() string {
	if k.Name == "" {
		return ""
	}
	text := k.Name
	for _, a := range k.Addresses {
		text += " " + a.String()
	}
	return text
}

// ParseKept is the inverse of String. What it can't read counts as nothing kept.
func ParseKept(text string) Kept {
	words := strings.Fields(text)
	if len(words) < 2 {
		return Kept{}
	}
	k := Kept{Name: words[0]}
	for _, word := range words[1:] {
		a, err := netip.ParseAddr(word)
		if err != nil {
			return Kept{}
		}
		k.Addresses = append(k.Addresses, a)
	}
	return k
}
