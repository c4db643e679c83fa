package firewall

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// TableName is the name of the table, of family inet.
const TableName = "overlay-cni"

// Config is what the table follows from.
type Config struct {
	// Own are this node's pod subnets.
	Own []netip.Prefix
	// Network are the pod subnets of all nodes; those of Own may be missing.
	Network []netip.Prefix
	// NoMasqueradeTo are destinations outside the pod network that see pods by
	// their own addresses.
	NoMasqueradeTo []netip.Prefix
	// Masquerade turns masquerading on.
	Masquerade bool
	// Bridge is the name of the interface behind which the pods are.
	Bridge string
}

// State is the table as a value, desired or read from the kernel. The zero
// State is that of a kernel without the table.
type State struct {
	Present bool
	Skeleton
	// Elements are the contents of the sets, by the set's name.
	Elements map[string]Elements
}

// Skeleton is everything in a table but the elements of its sets.
type Skeleton struct {
	// Flags of the table. A dormant table, for one, has flags and no effect.
	Flags uint32
	// Chains and Sets are sorted by name.
	Chains []Chain
	Sets   []Set
}

// Equal tells whether two states are the same.
func (s State) Equal(o State) bool {
	return s.Present == o.Present && reflect.DeepEqual(s.Skeleton, o.Skeleton) &&
		maps.EqualFunc(s.Elements, o.Elements, func(a, b Elements) bool { return a.Stray == b.Stray && slices.Equal(a.Ranges, b.Ranges) })
}

// Chain is a list of rules. The zero Hook is that of a chain that only other
// chains' rules jump to.
type Chain struct {
	Name  string
	Hook  Hook
	Rules []Rule
}

// Hook says where in the kernel a chain is called, in the words of nft.
type Hook struct {
	Type     string
	Point    string
	Priority int32
	Policy   string
}

// Rule is a list of steps. A packet leaves the rule at the first test that it
// fails.
type Rule struct {
	Comment string
	Steps   []Step
}

// Step is one instruction of the kernel's rule machine. All of them use its
// first register.
type Step struct {
	Verb Verb
	// Arg is what the verb needs: the name of a field to load (see fields), the
	// bytes to compare with, the name of a set.
	Arg string
}

// Verb is what a Step does.
type Verb string

// The verbs that the table's rules are made of. Other is any instruction that
// is not one of these; it only comes from the kernel.
const (
	Load       Verb = "load"
	Equal      Verb = "equal"
	Differ     Verb = "differ"
	In         Verb = "in"
	NotIn      Verb = "not in"
	Masquerade Verb = "masquerade fully-random"
	Drop       Verb = "drop"
	Other      Verb = "other"
)

// Set is the definition of a set, in the words of nft: type ipv4_addr, flags
// interval.
type Set struct {
	Name  string
	Type  string
	Flags string
}

// Elements are the contents of an interval set.
type Elements struct {
	// Ranges are sorted and don't overlap.
	Ranges []Range
	// Stray counts the ends of ranges that have no other end, which the kernel
	// lets anyone add. Desired elements have none.
	Stray int
}

// family is everything in which the rules for IPv4 and IPv6 differ.
type family struct {
	name        string // ends the names of the family's sets
	number      byte   // NFPROTO_*
	bits        int
	setType     string
	source      string // field
	destination string // field
	icmp        byte   // protocol number
	redirect    byte   // ICMP type
	multicast   string
}

func families() []family {
	return []family{{
		name: "4", number: unix.NFPROTO_IPV4, bits: 32, setType: "ipv4_addr",
		source: "ip saddr", destination: "ip daddr",
		icmp: unix.IPPROTO_ICMP, redirect: 5, // RFC 792
		multicast: "224.0.0.0/4",
	}, {
		name: "6", number: unix.NFPROTO_IPV6, bits: 128, setType: "ipv6_addr",
		source: "ip6 saddr", destination: "ip6 daddr",
		icmp: unix.IPPROTO_ICMPV6, redirect: 137, // RFC 4861
		multicast: "ff00::/8",
	}}
}

// Names of the sets of the family.
func (f family) own() string     { return "own" + f.name }
func (f family) network() string { return "network" + f.name }
func (f family) exempt() string  { return "exempt" + f.name }

// Desired is the table that c asks for.
func Desired(c Config) (State, error) {
	if err := check(c); err != nil {
		return State{}, err
	}
	s := State{Present: true, Elements: map[string]Elements{}}
	s.Chains = []Chain{redirectChain(c.Bridge)}
	if c.Masquerade {
		// Without masquerading there is no nat chain at all: its mere presence
		// makes the kernel track every connection of the host.
		s.Chains = append(s.Chains, masqueradeChain(c.Bridge))
		for _, f := range families() {
			s.addSets(f, c)
		}
	}
	s.sort()
	return s, nil
}

// sort makes states comparable.
func (s *Skeleton) sort() {
	slices.SortFunc(s.Chains, func(a, b Chain) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Sets, func(a, b Set) int { return cmp.Compare(a.Name, b.Name) })
}

// addSets adds what the masquerading rule of the family looks up.
//
// Multicast is exempt because a group's members need the sender's own address,
// and as an element instead of a test it is data like the rest.
func (s *State) addSets(f family, c Config) {
	exempt := append([]netip.Prefix{netip.MustParsePrefix(f.multicast)}, c.NoMasqueradeTo...)
	for name, prefixes := range map[string][]netip.Prefix{
		f.own():     c.Own,
		f.network(): slices.Concat(c.Own, c.Network),
		f.exempt():  exempt,
	} {
		s.Sets = append(s.Sets, Set{Name: name, Type: f.setType, Flags: "interval"})
		s.Elements[name] = Elements{Ranges: Merge(f.of(prefixes))}
	}
}

// of returns those of the prefixes that are the family's.
func (f family) of(prefixes []netip.Prefix) []netip.Prefix {
	var ours []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().BitLen() == f.bits {
			ours = append(ours, p)
		}
	}
	return ours
}

func check(c Config) error {
	if c.Bridge == "" || len(c.Bridge) >= unix.IFNAMSIZ {
		return fmt.Errorf("firewall: bridge name %q: must have 1 to %d bytes", c.Bridge, unix.IFNAMSIZ-1)
	}
	for _, p := range slices.Concat(c.Own, c.Network) {
		if err := subnet.Check(p); err != nil {
			return fmt.Errorf("firewall: %w", err)
		}
	}
	for _, p := range c.NoMasqueradeTo {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("firewall: noMasqueradeTo %q is not a prefix such as 192.0.2.0/24 or 2001:db8::/32", p)
		}
	}
	return nil
}
