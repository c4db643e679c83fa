package firewall

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// addMasquerading adds the chain that replaces sources, and its sets. The mere
// presence of a nat chain makes the kernel track every connection of the host, so
// without masquerading there is none.
func addMasquerading(t *nft.Table, c Config) {
	chain := nft.Chain{Name: "postrouting", Hook: nft.Hook{
		Type: "nat", Number: unix.NF_INET_POST_ROUTING, Priority: nft.PrioritySrcNAT, Policy: nft.Accept,
	}}
	for _, f := range family.All() {
		addIntervals(t, "own", f, c.Own)
		addIntervals(t, "exempt", f, append([]netip.Prefix{multicast(f)}, c.NoMasqueradeTo...))
		chain.Rules = append(chain.Rules,
			outgoingRule(f, c.Bridge), enteringRule(f, c.Tunnel.Device), redirectedRule(f, c))
	}
	t.Chains = append(t.Chains, chain)
}

// multicast is exempt because a group's members need the sender's own address.
func multicast(f family.Family) netip.Prefix {
	if f == family.IPv4 {
		return netip.MustParsePrefix("224.0.0.0/4")
	}
	return netip.MustParsePrefix("ff00::/8")
}

// outgoingRule replaces the source of packets that leave the pod network by the
// host's address. It exempts packets that leave through the bridge, because they are
// for pods of this host.
func outgoingRule(f family.Family, bridge string) nft.Rule {
	destination := nft.Destination(f, f.Bytes())
	return nft.NewRule("what leaves the pod network gets the address of the host", nft.IsFamily(f),
		nft.Source(f, f.Bytes()).In(setName("own", f)), destination.NotIn(setName("network", f)), destination.NotIn(setName("exempt", f)),
		nft.OutName().IsNot(nft.PadName(bridge)...), nft.Masquerade())
}

// enteringRule replaces the source of packets that enter the tunnel from outside
// the pod network: from a process bound to the host's own address, or from a client
// whose packets this host leads to another host's pod. Without it the pod would
// answer past the tunnel, and whoever checks sources on that way drops the answer.
// VTEPs and gateways have addresses of pod subnets, so they keep theirs.
func enteringRule(f family.Family, tunnel string) nft.Rule {
	return nft.NewRule("what enters the tunnel from outside the pod network gets the tunnel's address", nft.IsFamily(f),
		nft.OutName().Is(nft.PadName(tunnel)...), nft.Source(f, f.Bytes()).NotIn(setName("network", f)), nft.Masquerade())
}

// redirectedRule is enteringRule for pods that are reached without the tunnel. There
// only answers to redirected packets need this host, which has to undo the
// redirection.
func redirectedRule(f family.Family, c Config) nft.Rule {
	return nft.NewRule("answers to what this host redirects to another host's pod come back here", nft.IsFamily(f),
		nft.Destination(f, f.Bytes()).In(setName("network", f)), nft.Source(f, f.Bytes()).NotIn(setName("network", f)),
		nft.OutName().IsNot(nft.PadName(c.Bridge)...), nft.IsRedirected(), nft.Masquerade())
}
