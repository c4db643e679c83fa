package firewall

import "golang.org/x/sys/unix"

// Priorities of the chains among those of other tables, as nft names them.
const (
	priorityFilter = 0
	prioritySrcNAT = 100
)

// masqueradeChain gives packets that leave the pod network the address of the
// host. The port is chosen at random because pods that reach one server
// through one host at once otherwise race for the same port, and lose packets
// (a long known fault of sequential choice).
func masqueradeChain(bridge string) Chain {
	c := Chain{
		Name: "postrouting",
		Hook: Hook{Type: "nat", Point: "postrouting", Priority: prioritySrcNAT, Policy: "accept"},
	}
	for _, f := range families() {
		c.Rules = append(c.Rules, masqueradeRule(f, bridge))
	}
	return c
}

// masqueradeRule leaves alone what goes out of the bridge: it is for a pod, and
// the address that masquerading would give it is the gateway's.
func masqueradeRule(f family, bridge string) Rule {
	return Rule{
		Comment: "what leaves the pod network gets the address of the host",
		Steps: []Step{
			{Load, "meta nfproto"}, {Equal, octet(f.number)},
			{Load, f.source}, {In, f.own()},
			{Load, f.destination}, {NotIn, f.network()},
			{Load, f.destination}, {NotIn, f.exempt()},
			{Load, "meta oifname"}, {Differ, interfaceName(bridge)},
			{Masquerade, ""},
		},
	}
}

// redirectChain drops the ICMP redirects that the host would send to pods.
// Traffic between two pods of a host enters and leaves through the bridge, so
// the kernel takes them for neighbours and tells the sender to talk to the
// other directly; but the ports of the bridge are isolated, and a pod that
// believed it would lose the connection.
func redirectChain(bridge string) Chain {
	c := Chain{
		Name: "output",
		Hook: Hook{Type: "filter", Point: "output", Priority: priorityFilter, Policy: "accept"},
	}
	for _, f := range families() {
		c.Rules = append(c.Rules, redirectRule(f, bridge))
	}
	return c
}

func redirectRule(f family, bridge string) Rule {
	return Rule{
		Comment: "pods reach each other only through the host",
		Steps: []Step{
			{Load, "meta nfproto"}, {Equal, octet(f.number)},
			{Load, "meta l4proto"}, {Equal, octet(f.icmp)},
			{Load, "icmp type"}, {Equal, octet(f.redirect)},
			{Load, "meta oifname"}, {Equal, interfaceName(bridge)},
			{Drop, ""},
		},
	}
}

// octet is the byte as it stands in the packet. Go's own conversion would make
// UTF-8 of it.
func octet(b byte) string { return string([]byte{b}) }

// interfaceName is name as the kernel compares it: padded with zeroes.
func interfaceName(name string) string {
	var padded [unix.IFNAMSIZ]byte
	copy(padded[:], name)
	return string(padded[:])
}
