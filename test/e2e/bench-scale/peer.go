package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The network: nodes are numbered, and all of a node follows from its number.
// The host that is measured is one of the lab's, which numbers its hosts from
// 1 in the same networks; peers come after these.
var (
	segment    = netip.MustParsePrefix("172.31.255.254/12") // the switch's own address
	podNetwork = netip.MustParsePrefix("10.0.0.0/9")        // cut into /24s
)

const (
	firstPeer = 1000
	// maxPeers is what is left of the pod network.
	maxPeers = 1<<15 - firstPeer
	// firstSpare is the number whose address the first changed node gets.
	firstSpare = 1 << 16
)

// node is a host in the registry.
type node struct {
	name    string
	address netip.Addr
	subnet  netip.Prefix
}

// peer is the node number i of those that are no real host.
func peer(i int) node {
	number := firstPeer + i
	return node{name: fmt.Sprintf("node-%05d", i), address: addressOf(number), subnet: subnetOf(number)}
}

func peers(from, to int) []node {
	all := make([]node, 0, to-from)
	for i := from; i < to; i++ {
		all = append(all, peer(i))
	}
	return all
}

func addressOf(number int) netip.Addr { return plus(segment.Masked().Addr(), uint32(number)) }

func subnetOf(number int) netip.Prefix {
	return netip.PrefixFrom(plus(podNetwork.Addr(), uint32(number)<<8), 24)
}

func plus(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
	return netip.AddrFrom4(b)
}

// entries are what the kernel has to have for a peer: a route to its subnet, a
// neighbour for that route's next hop, and where to send its frames.
func (n node) entries() []entry {
	return []entry{
		{route, n.subnet},
		{neighbor, host(n.subnet.Addr())},
		{forward, host(n.address)},
	}
}

func prefixes(ps ...netip.Prefix) []netip.Prefix { return ps }

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func entriesOf(nodes []node) []entry {
	var all []entry
	for _, n := range nodes {
		all = append(all, n.entries()...)
	}
	return all
}
