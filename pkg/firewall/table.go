package firewall

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// TableName returns the name of a network's table, of family inet.
func TableName(n network.Name) string {
	const name = "overlay-cni"
	if n == network.Default {
		return name
	}
	return name + "-" + string(n)
}

// Config is the input of Desired.
type Config struct {
	// Own are this node's pod subnets.
	Own []netip.Prefix
	// Network are the pod subnets of all nodes. The subnets in Own may be missing.
	Network []netip.Prefix
	// NoMasqueradeTo are destinations outside the pod network that see pods by
	// their own addresses.
	NoMasqueradeTo []netip.Prefix
	// Masquerade turns masquerading on.
	Masquerade bool
	// Bridge is the name of the interface behind which the pods are.
	Bridge string
	Tunnel Tunnel
}

// Desired returns the table that c asks for.
func Desired(c Config) (*nft.Table, error) {
	if err := check(c); err != nil {
		return nil, err
	}
	t := &nft.Table{Chains: []nft.Chain{redirects(c.Bridge)}}
	for _, f := range family.All() {
		addIntervals(t, "network", f, slices.Concat(c.Own, c.Network))
	}
	addTunnel(t, c)
	if c.Masquerade {
		addMasquerading(t, c)
	}
	return t, nil
}

func filter(name string, hook uint32, priority int32, rules ...nft.Rule) nft.Chain {
	return nft.Chain{Name: name, Rules: rules, Hook: nft.Hook{Type: "filter", Number: hook, Priority: priority, Policy: nft.Accept}}
}

func redirects(bridge string) nft.Chain {
	c := filter("output", unix.NF_INET_LOCAL_OUT, nft.PriorityFilter)
	for _, f := range family.All() {
		c.Rules = append(c.Rules, redirectRule(f, bridge))
	}
	return c
}

// redirectRule drops the ICMP redirects that the host would send to pods.
// Traffic between two pods of a host enters and leaves through the bridge, so
// the kernel takes the pods for neighbours, and tells the sender to talk to the
// other pod directly. But the bridge's ports are isolated: a pod that believed
// the redirect would lose the connection.
func redirectRule(f family.Family, bridge string) nft.Rule {
	protocol, redirect := byte(unix.IPPROTO_ICMP), byte(5) // RFC 792
	if f == family.IPv6 {
		protocol, redirect = unix.IPPROTO_ICMPV6, 137 // RFC 4861
	}
	return nft.NewRule("pods reach each other only through the host", nft.IsFamily(f),
		nft.L4Proto().Is(protocol), nft.ICMPType().Is(redirect), nft.OutName().Is(nft.PadName(bridge)...), nft.Drop.Exprs())
}

// setName returns the name of a family's set: own4 or own6 for own.
func setName(what string, f family.Family) string {
	if f == family.IPv4 {
		return what + "4"
	}
	return what + "6"
}

// addIntervals adds a set of the prefixes of the family.
func addIntervals(t *nft.Table, what string, f family.Family, prefixes []netip.Prefix) {
	name := setName(what, f)
	t.Sets = append(t.Sets, nft.NewIntervals(name, nft.Addr(f)))
	t.Elements = append(t.Elements, ranges(name, f.Filter(prefixes))...)
}

// ranges returns the fewest elements of a set that cover the prefixes, all of
// one family. The kernel refuses elements of a set that overlap.
func ranges(set string, prefixes []netip.Prefix) []nft.Element {
	var merged []nft.Element
	var last netip.Addr // of the last element
	for _, p := range subnet.Sort(prefixes) {
		first, end := p.Masked().Addr(), subnet.Last(p)
		// The prefix doesn't begin before the last element. It belongs to that element
		// if it begins at most one address behind the element's end.
		if after := last.Next(); len(merged) > 0 && (!after.IsValid() || !after.Less(first)) {
			if last.Less(end) {
				last = end
			}
		} else {
			merged, last = append(merged, nft.Element{Set: set, Key: string(first.AsSlice())}), end
		}
		merged[len(merged)-1].Last = string(last.AsSlice())
	}
	return merged
}

func check(c Config) error {
	for what, name := range map[string]string{"bridge": c.Bridge, "tunnel": c.Tunnel.Device} {
		if name == "" || len(name) >= unix.IFNAMSIZ {
			return fmt.Errorf("firewall: %s name %q: must have 1 to %d bytes", what, name, unix.IFNAMSIZ-1)
		}
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
