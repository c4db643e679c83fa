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
}

// Desired returns the table that c asks for.
func Desired(c Config) (*nft.Table, error) {
	if err := check(c); err != nil {
		return nil, err
	}
	redirects := nft.Chain{Name: "output", Hook: nft.Hook{
		Type: "filter", Number: unix.NF_INET_LOCAL_OUT, Priority: nft.PriorityFilter, Policy: nft.Accept,
	}}
	masquerading := nft.Chain{Name: "postrouting", Hook: nft.Hook{
		Type: "nat", Number: unix.NF_INET_POST_ROUTING, Priority: nft.PrioritySrcNAT, Policy: nft.Accept,
	}}
	t := &nft.Table{}
	for _, f := range family.All() {
		redirects.Rules = append(redirects.Rules, redirectRule(f, c.Bridge))
		if c.Masquerade {
			masquerading.Rules = append(masquerading.Rules, masqueradeRule(f, c.Bridge))
			addSets(t, f, c)
		}
	}
	t.Chains = append(t.Chains, redirects)
	if c.Masquerade {
		// The mere presence of a nat chain makes the kernel track every connection of
		// the host, so without masquerading there is none.
		t.Chains = append(t.Chains, masquerading)
	}
	return t, nil
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

// masqueradeRule replaces the source of packets that leave the pod network by the
// host's address. It exempts packets that leave through the bridge, because they are
// for pods of this host.
func masqueradeRule(f family.Family, bridge string) nft.Rule {
	source, destination := nft.Source(f, f.Bytes()), nft.Destination(f, f.Bytes())
	return nft.NewRule("what leaves the pod network gets the address of the host", nft.IsFamily(f),
		source.In(setName("own", f)), destination.NotIn(setName("network", f)), destination.NotIn(setName("exempt", f)),
		nft.OutName().IsNot(nft.PadName(bridge)...), nft.Masquerade())
}

// setName returns the name of a family's set: own4 or own6 for own.
func setName(what string, f family.Family) string {
	if f == family.IPv4 {
		return what + "4"
	}
	return what + "6"
}

// addSets adds what the masquerading rule of the family looks up.
//
// Multicast is exempt because a group's members need the sender's own address.
func addSets(t *nft.Table, f family.Family, c Config) {
	multicast := netip.MustParsePrefix("224.0.0.0/4")
	if f == family.IPv6 {
		multicast = netip.MustParsePrefix("ff00::/8")
	}
	for _, s := range []struct {
		name     string
		prefixes []netip.Prefix
	}{
		{"own", c.Own},
		{"network", slices.Concat(c.Own, c.Network)},
		{"exempt", append([]netip.Prefix{multicast}, c.NoMasqueradeTo...)},
	} {
		name := setName(s.name, f)
		t.Sets = append(t.Sets, nft.NewIntervals(name, nft.Addr(f)))
		t.Elements = append(t.Elements, ranges(name, f.Filter(s.prefixes))...)
	}
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
