package guard

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// TableName is the name of the table, of family bridge.
const TableName = "overlay-cni-guard"

// Table names the table.
func Table() nft.ID { return nft.ID{Family: nft.Bridge, Name: TableName} }

// Names of the sets.
const (
	setPorts      = "ports"
	setOwn        = "own"
	setMACs       = "macs"
	setLinkLocals = "linklocals"
)

func sourcesSet(f family.Family) string {
	if f == family.IPv4 {
		return "sources4"
	}
	return "sources6"
}

func sets() []nft.Set {
	all := []nft.Set{
		nft.NewSet(setPorts, nft.IfName),
		nft.NewSet(setOwn, nft.Concat(nft.IfName, nft.EtherAddr)),
		nft.NewSet(setMACs, nft.EtherAddr),
		nft.NewSet(setLinkLocals, nft.Addr(family.IPv6)),
	}
	for _, f := range family.All() {
		all = append(all, nft.NewSet(sourcesSet(f), nft.Concat(nft.IfName, nft.Addr(f))))
	}
	return all
}

// Names of the chains.
const (
	chainPod         = "pod"         // frames of a guarded port, with an acceptable MAC address
	chainARP         = "arp"         //
	chainIPv6        = "ipv6"        // the source isn't checked yet
	chainIPv6Payload = "ipv6payload" // the source is right
	chainUnspecified = "unspecified" // ICMPv6 from ::
	chainTarget      = "target"      // neighbour discovery that claims its target
	chainOption      = "option"      // solicitations and advertisements of neighbours
	chainRSOption    = "rsoption"    // router solicitations
)

// priority is before ebtables (-300) and br_netfilter (0).
const priority = -400

// skeleton is the table with everything but the elements.
func skeleton() *nft.Table {
	return &nft.Table{Sets: sets(), Chains: []nft.Chain{
		{
			Name: "prerouting", Rules: portRules(),
			Hook: nft.Hook{Type: "filter", Number: nfBridgePreRouting, Priority: priority, Policy: nft.Accept},
		},
		{Name: chainPod, Rules: podRules()},
		{Name: chainARP, Rules: arpRules()},
		{Name: chainIPv6, Rules: ipv6Rules()},
		{Name: chainIPv6Payload, Rules: ipv6PayloadRules()},
		{Name: chainUnspecified, Rules: unspecifiedRules()},
		{Name: chainTarget, Rules: targetRules()},
		{Name: chainOption, Rules: optionRules(24)},
		{Name: chainRSOption, Rules: optionRules(8)},
	}}
}

const nfBridgePreRouting = 0 // NF_BR_PRE_ROUTING, linux/netfilter_bridge.h

// drop ends a chain: what no rule before it accepted is a lie, or can't be read.
func drop(comment string) nft.Rule { return nft.NewRule(comment, nft.Counter(), nft.Drop.Exprs()) }

// portRules decide about the port and the frame's MAC address.
func portRules() []nft.Rule {
	return []nft.Rule{
		nft.NewRule("a pod's own MAC address", nft.InName().And(nft.EtherSource()).In(setOwn), nft.Goto(chainPod).Exprs()),
		nft.NewRule("not a guarded port", nft.InName().NotIn(setPorts), nft.Accept.Exprs()),
		nft.NewRule("a MAC address that nobody else has", nft.EtherSource().NotIn(setMACs), nft.Goto(chainPod).Exprs()),
		drop("the MAC address of another pod or of the gateway"),
	}
}

// podRules leave VLAN tags and all other protocols to the drop.
func podRules() []nft.Rule {
	is := func(typ uint16) []nft.Expr { return nft.EtherType().Is(binary.BigEndian.AppendUint16(nil, typ)...) }
	return []nft.Rule{
		nft.NewRule("DHCP to a client", is(unix.ETH_P_IP), nft.L4Proto().Is(unix.IPPROTO_UDP), notLaterFragment(),
			toPort(68), nft.Drop.Exprs()),
		nft.NewRule("redirect", is(unix.ETH_P_IP), nft.L4Proto().Is(unix.IPPROTO_ICMP), notLaterFragment(),
			nft.ICMPType().Is(icmpRedirect), nft.Drop.Exprs()),
		nft.NewRule("the pod's own address", is(unix.ETH_P_IP), source(family.IPv4).In(sourcesSet(family.IPv4)), nft.Accept.Exprs()),
		nft.NewRule("", is(unix.ETH_P_IPV6), nft.Goto(chainIPv6).Exprs()),
		nft.NewRule("", is(unix.ETH_P_ARP), nft.Goto(chainARP).Exprs()),
		drop("another's IPv4 address, a VLAN tag or another protocol"),
	}
}

// source is the port with the packet's source address.
func source(f family.Family) nft.Field { return nft.InName().And(nft.Source(f, f.Bytes())) }

func toPort(port uint16) []nft.Expr {
	return nft.DestinationPort().Is(binary.BigEndian.AppendUint16(nil, port)...)
}

// notLaterFragment passes IPv4 packets that begin with a transport header. The kernel
// takes what a later fragment has there for a port (nft_payload_fast_eval in
// net/netfilter/nf_tables_core.c).
func notLaterFragment() []nft.Expr {
	return nft.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 6, 2).HasNone(0x1f, 0xff)
}

// Types of ICMP (RFC 792) and ICMPv6 (RFC 4443, RFC 4861, RFC 2710, RFC 3810).
const (
	icmpRedirect = 5

	mldReport             = 131
	mldDone               = 132
	routerSolicitation    = 133
	routerAdvertisement   = 134
	neighborSolicitation  = 135
	neighborAdvertisement = 136
	icmpv6Redirect        = 137
	mld2Report            = 143
)

// arpRules check the body of ARP for Ethernet and IPv4 (RFC 826): sender MAC at 8,
// sender IP at 14.
func arpRules() []nft.Rule {
	body := func(offset, size int) nft.Field {
		return nft.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, size)
	}
	ethernet := body(0, 6).Is(0, 1, 8, 0, 6, 4) // hardware, protocol, and the sizes of their addresses
	senderMAC, senderIP := body(8, 6), body(14, 4)
	return []nft.Rule{
		nft.NewRule("the MAC address of another pod or of the gateway",
			nft.InName().And(senderMAC).NotIn(setOwn), senderMAC.In(setMACs), nft.Counter(), nft.Drop.Exprs()),
		nft.NewRule("the pod's own address", ethernet, nft.InName().And(senderIP).In(sourcesSet(family.IPv4)), nft.Accept.Exprs()),
		nft.NewRule("a probe, which tells nobody anything (RFC 5227)", ethernet, senderIP.Is(0, 0, 0, 0), nft.Accept.Exprs()),
		drop("another's address"),
	}
}

// linkLocalNet is the first half of fe80::/64.
func linkLocalNet() []byte { return []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0} }

func ipv6Rules() []nft.Rule {
	f := family.IPv6
	return []nft.Rule{
		nft.NewRule("the pod's own address", source(f).In(sourcesSet(f)), nft.Goto(chainIPv6Payload).Exprs()),
		nft.NewRule("a link-local address that nobody else has", nft.Source(f, len(linkLocalNet())).Is(linkLocalNet()...),
			nft.Source(f, f.Bytes()).NotIn(setLinkLocals), nft.Goto(chainIPv6Payload).Exprs()),
		nft.NewRule("no address yet", nft.Source(f, f.Bytes()).Is(netip.IPv6Unspecified().AsSlice()...),
			nft.L4Proto().Is(unix.IPPROTO_ICMPV6), nft.Goto(chainUnspecified).Exprs()),
		drop("another's address"),
	}
}

// ipv6PayloadRules accept a packet only if its transport protocol can be told, and
// ICMPv6 only with its type. Otherwise a message of neighbour discovery could hide its
// type in a later fragment.
func ipv6PayloadRules() []nft.Rule {
	rules := []nft.Rule{
		nft.NewRule("", nft.L4Proto().IsNot(unix.IPPROTO_ICMPV6), nft.L4Proto().IsNot(unix.IPPROTO_UDP), nft.Accept.Exprs()),
		nft.NewRule("a later fragment", nft.L4Proto().IsAtLeast(0), nft.FragmentOffset().IsAtLeast(0, 8), nft.Accept.Exprs()),
		nft.NewRule("DHCP to a client", nft.L4Proto().Is(unix.IPPROTO_UDP), toPort(546), nft.Drop.Exprs()),
		nft.NewRule("", nft.L4Proto().Is(unix.IPPROTO_UDP), nft.Accept.Exprs()),
		nft.NewRule("router advertisement", isICMPv6(routerAdvertisement), nft.Drop.Exprs()),
		nft.NewRule("redirect", isICMPv6(icmpv6Redirect), nft.Drop.Exprs()),
	}
	rules = append(rules, discoveryRules(nft.Goto(chainOption))...)
	return append(rules,
		nft.NewRule("any other type", nft.L4Proto().Is(unix.IPPROTO_ICMPV6), nft.ICMPType().IsAtLeast(0), nft.Accept.Exprs()),
		drop("a transport protocol or a type that can't be told"))
}

// discoveryRules decide about the messages of neighbour discovery that hosts send. A
// solicitation from a pod's own address may be about anybody.
func discoveryRules(solicitation nft.Verdict) []nft.Rule {
	return []nft.Rule{
		nft.NewRule("", isICMPv6(neighborSolicitation), solicitation.Exprs()),
		nft.NewRule("", isICMPv6(neighborAdvertisement), nft.Goto(chainTarget).Exprs()),
		nft.NewRule("", isICMPv6(routerSolicitation), nft.Goto(chainRSOption).Exprs()),
	}
}

func isICMPv6(typ byte) []nft.Expr {
	return slices.Concat(nft.L4Proto().Is(unix.IPPROTO_ICMPV6), nft.ICMPType().Is(typ))
}

// unspecifiedRules accept what a host sends before it has an address: duplicate
// address detection claims the address that it asks for.
func unspecifiedRules() []nft.Rule {
	rules := discoveryRules(nft.Goto(chainTarget))
	for _, typ := range []byte{mldReport, mldDone, mld2Report} {
		rules = append(rules, nft.NewRule("multicast listener discovery", isICMPv6(typ), nft.Accept.Exprs()))
	}
	return append(rules, drop("no source address"))
}

// targetRules check the target of a neighbour solicitation or advertisement.
func targetRules() []nft.Rule {
	target := func(size int) nft.Field { return nft.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 8, size) }
	f := family.IPv6
	return []nft.Rule{
		nft.NewRule("the pod's own address", nft.InName().And(target(f.Bytes())).In(sourcesSet(f)), nft.Goto(chainOption).Exprs()),
		nft.NewRule("a link-local address that nobody else has", target(len(linkLocalNet())).Is(linkLocalNet()...),
			target(f.Bytes()).NotIn(setLinkLocals), nft.Goto(chainOption).Exprs()),
		drop("another's address"),
	}
}

// optionRules accept a message of neighbour discovery that has no option, or one of 8
// bytes after the message's fixed part, which has that length in bytes. The kernel
// that receives the message ignores it if the option's own length is not 8. So the
// option holds a MAC address or a nonce, at 2.
func optionRules(fixed byte) []nft.Rule {
	// Length of the payload, and next header: no extension header comes in between.
	header := func(length byte) []nft.Expr {
		return nft.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 4, 3).Is(0, length, unix.IPPROTO_ICMPV6)
	}
	const option = 8
	mac := nft.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, int(fixed)+2, 6)
	return []nft.Rule{
		nft.NewRule("no option", header(fixed), nft.Accept.Exprs()),
		nft.NewRule("the pod's own MAC address", header(fixed+option), nft.InName().And(mac).In(setOwn), nft.Accept.Exprs()),
		nft.NewRule("a MAC address that nobody else has", header(fixed+option), mac.NotIn(setMACs), nft.Accept.Exprs()),
		drop("the MAC address of another pod or of the gateway, or an unusual option"),
	}
}
