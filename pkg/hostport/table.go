package hostport

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// TableName is the name of the table, of family inet. All networks share the
// table, because a port of the host has one owner.
const TableName = "overlay-cni-ports"

func table() nft.ID { return nft.ID{Family: nft.Inet, Name: TableName} }

// bridges is the name of the set of bridges whose pods have ports on 127.0.0.0/8.
const bridges = "bridges"

// Names of the sets of a family.
func portsSet(f family.Family) string   { return "ports" + digit(f) }   // a port of all addresses
func boundSet(f family.Family) string   { return "bound" + digit(f) }   // a port of one address
func hairpinSet(f family.Family) string { return "hairpin" + digit(f) } // pods with ports

func digit(f family.Family) string {
	if f == family.IPv4 {
		return "4"
	}
	return "6"
}

// skeleton is the table with everything but the elements.
func skeleton() *nft.Table {
	return &nft.Table{Sets: sets(), Chains: []nft.Chain{
		chain("localnet", "filter", unix.NF_INET_PRE_ROUTING, nft.PriorityRaw, localnetRules()),
		// The same rules, for what comes in and for what the host itself sends.
		chain("prerouting", "nat", unix.NF_INET_PRE_ROUTING, nft.PriorityDstNAT, portRules()),
		chain("output", "nat", unix.NF_INET_LOCAL_OUT, nft.PriorityDstNAT, portRules()),
		chain("postrouting", "nat", unix.NF_INET_POST_ROUTING, nft.PrioritySrcNAT, sourceRules()),
	}}
}

func chain(name, typ string, hook uint32, priority int32, rules []nft.Rule) nft.Chain {
	return nft.Chain{Name: name, Hook: nft.Hook{Type: typ, Number: hook, Priority: priority, Policy: nft.Accept}, Rules: rules}
}

func sets() []nft.Set {
	all := []nft.Set{nft.NewSet(bridges, nft.IfName)}
	for _, f := range family.All() {
		address := nft.Addr(f)
		pod := nft.Concat(address, nft.Port)
		all = append(all,
			nft.NewMap(portsSet(f), nft.Concat(nft.Protocol, nft.Port), pod),
			nft.NewMap(boundSet(f), nft.Concat(nft.Protocol, address, nft.Port), pod),
			nft.NewSet(hairpinSet(f), nft.Concat(address, address)))
	}
	return all
}

// portRules lead ports of the host to pods. A mapping for one address wins over a
// mapping of the same port for all addresses.
func portRules() []nft.Rule {
	var rules []nft.Rule
	for _, f := range family.All() {
		l4, address, port := nft.L4Proto(), nft.Destination(f, f.Bytes()), nft.DestinationPort()
		rules = append(rules,
			portRule(f, l4.And(address, port).Find(boundSet(f))),
			portRule(f, l4.And(port).Find(portsSet(f))))
	}
	return rules
}

// portRule asks the map first and the FIB second: most packets miss the map,
// and the map costs less.
func portRule(f family.Family, find []nft.Expr) nft.Rule {
	return nft.NewRule("ports of the host that lead to pods",
		nft.IsFamily(f), notFromLoopback(f), find, nft.IsLocal(), nft.DNAT(f))
}

// notFromLoopback leaves out callers at ::1, whom no pod can answer: the kernel
// lets nothing with that address leave the host.
func notFromLoopback(f family.Family) []nft.Expr {
	if f == family.IPv4 {
		return nil
	}
	return nft.Source(f, f.Bytes()).IsNot(netip.IPv6Loopback().AsSlice()...)
}

// sourceRules give the bridge's address to callers that a pod couldn't answer:
// itself, and 127.0.0.0/8.
func sourceRules() []nft.Rule {
	var rules []nft.Rule
	for _, f := range family.All() {
		pair := nft.Source(f, f.Bytes()).And(nft.Destination(f, f.Bytes()))
		rules = append(rules, nft.NewRule("a pod that calls itself by a port of the host",
			nft.IsFamily(f), pair.In(hairpinSet(f)), nft.Masquerade()))
	}
	return append(rules, nft.NewRule("the host that calls a pod by a port of 127.0.0.0/8",
		nft.IsFamily(family.IPv4), inLoopbackNet(nft.Source), nft.OutName().In(bridges), nft.Masquerade()))
}

// localnetRules keep 127.0.0.0/8 to the host itself. Without them pods would reach
// services there, because of route_localnet, and a neighbour on any link would reach
// the host ports of 127.0.0.1: the kernel refuses such packets only after the
// translation of addresses. Answers to the host's own calls pass, because here,
// before connection tracking, they still have the bridge's address.
func localnetRules() []nft.Rule {
	var rules []nft.Rule
	for _, end := range []func(family.Family, int) nft.Field{nft.Destination, nft.Source} {
		rules = append(rules, nft.NewRule("127.0.0.0/8 is for the host itself",
			nft.IsFamily(family.IPv4), inLoopbackNet(end), nft.InName().IsNot(nft.PadName("lo")...), nft.Drop.Exprs()))
	}
	return rules
}

// inLoopbackNet compares the first byte of an IPv4 address with 127.
func inLoopbackNet(end func(family.Family, int) nft.Field) []nft.Expr {
	return end(family.IPv4, 1).Is(127)
}
