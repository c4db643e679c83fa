package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

// Family is an IP version. Each has tables and programs of its own.
type Family string

// The families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

func families() []Family { return []Family{IPv4, IPv6} }

// of returns those of the prefixes that are the family's.
func (f Family) of(prefixes []netip.Prefix) []netip.Prefix {
	bits := map[Family]int{IPv4: 32, IPv6: 128}[f]
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return p.Addr().BitLen() != bits })
}

// Spot is where a chain of ours is called from.
type Spot struct {
	Table string
	// Base is the built-in chain that jumps to ours.
	Base string
	// Chain is the name of ours.
	Chain string
	// First puts the jump before the other rules of the built-in chain. Else it
	// goes behind them, and before the first one that ends the chain for every
	// packet.
	First bool
	// Make is for chains that are needed with or without other rules, on kernels
	// that have no nf_tables: the table is made where it is missing, and
	// iptables-nft's tables are left alone. Else the chain is put wherever there
	// is a table, and no table is made for it.
	Make bool
}

func forward() Spot { return Spot{Table: "filter", Base: "FORWARD", Chain: "OVERLAY-CNI-FWD"} }

func postrouting() Spot {
	return Spot{Table: "nat", Base: "POSTROUTING", Chain: "OVERLAY-CNI-POSTRTG", Make: true}
}

func output() Spot {
	return Spot{Table: "filter", Base: "OUTPUT", Chain: "OVERLAY-CNI-OUTPUT", First: true, Make: true}
}

// Chain is a chain of ours and the jump to it. Without rules both are absent.
type Chain struct {
	Family Family
	Spot   Spot
	Rules  []Rule
}

// State is the chains that there should be. What it doesn't list is removed.
type State []Chain

// Rule is a rule as iptables -S lists it, without the chain's name.
type Rule struct {
	Source, Destination netip.Prefix
	In, Out             string
	// Match are further conditions, as iptables -S writes them.
	Match string
	// Target, with its options.
	Target string
}

// replies are the packets of connections that were let through before, and
// what belongs to them.
const replies = "-m conntrack --ctstate RELATED,ESTABLISHED"

// String writes the rule as iptables -S does, which the text is compared with.
func (r Rule) String() string {
	var words []string
	option := func(name, value string) {
		if value != "" {
			words = append(words, name, value)
		}
	}
	option("-s", prefixText(r.Source))
	option("-d", prefixText(r.Destination))
	option("-i", r.In)
	option("-o", r.Out)
	if r.Match != "" {
		words = append(words, r.Match)
	}
	option("-j", r.Target)
	return strings.Join(words, " ")
}

// prefixText is empty for a prefix that is any address, as with iptables -S.
func prefixText(p netip.Prefix) string {
	if !p.IsValid() || p.Bits() == 0 {
		return ""
	}
	return p.Masked().String()
}

// Pods is what the rules that let pods' traffic through follow from.
type Pods struct {
	// Own are this node's pod subnets. Only their families get rules.
	Own []netip.Prefix
	// Bridge is the interface behind which the pods are.
	Bridge string
	// Tunnel is the interface behind which the other nodes' pods are.
	Tunnel string
}

// Forward lets pods' traffic through where a host's own rules would end it.
//
// It goes by interface: what pods send and get passes the bridge, wherever it
// comes from or goes to, so these rules are the same for years. By subnet they
// would change with every node, and nothing more would pass. The tunnel counts
// for what a host forwards on behalf of others: a Service's port of this host
// that leads to a pod of another one. From the tunnel only replies are let in;
// what it brings for pods leaves by the bridge.
func Forward(p Pods) (State, error) {
	for _, name := range []string{p.Bridge, p.Tunnel} {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	var s State
	for _, f := range families() {
		if len(f.of(p.Own)) > 0 {
			s = append(s, Chain{Family: f, Spot: forward(), Rules: []Rule{
				{In: p.Bridge, Target: "ACCEPT"},
				{Out: p.Bridge, Target: "ACCEPT"},
				{Out: p.Tunnel, Target: "ACCEPT"},
				{In: p.Tunnel, Match: replies, Target: "ACCEPT"},
			}})
		}
	}
	return s, nil
}

// Instead does what package firewall's table does, on kernels without
// nf_tables.
func Instead(c firewall.Config) (State, error) {
	if _, err := firewall.Desired(c); err != nil { // which checks it
		return nil, err
	}
	if err := checkName(c.Bridge); err != nil {
		return nil, err
	}
	var s State
	for _, f := range families() {
		if len(f.of(c.Own)) == 0 {
			continue
		}
		s = append(s, Chain{Family: f, Spot: output(), Rules: redirectRules(f, c.Bridge)})
		if c.Masquerade {
			s = append(s, Chain{Family: f, Spot: postrouting(), Rules: masqueradeRules(f, c)})
		}
	}
	return s, nil
}

// masqueradeRules begin with the exceptions. What goes out of the bridge is for
// a pod, and the address it would get is the gateway's. Ports are chosen at
// random because pods that reach one server through one host at once race for
// the same port otherwise, and lose packets.
func masqueradeRules(f Family, c firewall.Config) []Rule {
	rules := []Rule{{Out: c.Bridge, Target: "RETURN"}}
	for _, p := range aggregate(f.of(slices.Concat(c.Own, c.Network, c.NoMasqueradeTo, multicast()))) {
		rules = append(rules, Rule{Destination: p, Target: "RETURN"})
	}
	for _, p := range aggregate(f.of(c.Own)) {
		rules = append(rules, Rule{Source: p, Target: "MASQUERADE --random-fully"})
	}
	return rules
}

// multicast: a group's members need the sender's own address.
func multicast() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")}
}

// redirectRules keep the kernel from telling pods about shortcuts that they
// can't take: see package firewall.
func redirectRules(f Family, bridge string) []Rule {
	match := map[Family]string{
		IPv4: "-p icmp -m icmp --icmp-type 5",           // RFC 792
		IPv6: "-p ipv6-icmp -m icmp6 --icmpv6-type 137", // RFC 4861
	}
	return []Rule{{Out: bridge, Match: match[f], Target: "DROP"}}
}

// checkName refuses names of interfaces that mean something else to iptables:
// a + at the end is any name that begins so.
func checkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, " \t\n\"'\\!+") {
		return fmt.Errorf("iptables: interface name %q: must have 1 to %d bytes, without blanks, quotes, ! and +",
			name, unix.IFNAMSIZ-1)
	}
	return nil
}

// everywhere lists every chain that there can be: those of s, and all others
// without rules.
func (s State) everywhere() []Chain {
	var all []Chain
	for _, spot := range []Spot{forward(), output(), postrouting()} {
		for _, f := range families() {
			all = append(all, s.at(f, spot))
		}
	}
	return all
}

func (s State) at(f Family, spot Spot) Chain {
	i := slices.IndexFunc(s, func(c Chain) bool { return c.Family == f && c.Spot == spot })
	if i < 0 {
		return Chain{Family: f, Spot: spot}
	}
	return s[i]
}
