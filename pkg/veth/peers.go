package veth

import (
	"net/netip"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// Pair is a veth pair with one end on the host, whoever made it.
type Pair struct{ host rtnl.VethEntry }

// Pairs lists the veth pairs whose other end is in another network namespace, by the
// names of the ends on the host.
func (k *Kernel) Pairs() (map[string]Pair, error) {
	pairs := map[string]Pair{}
	err := k.conn.EachVeth(func(e rtnl.VethEntry) {
		if e.Netns >= 0 {
			pairs[e.Name] = Pair{e}
		}
	})
	return pairs, err
}

// AddressesOf asks the kernel for the addresses of a pair's other end by which
// others can reach it. A pair that is gone has none.
func (k *Kernel) AddressesOf(p Pair) ([]netip.Addr, error) {
	var addrs []netip.Addr
	err := k.conn.EachAddrIn(p.host.Netns, p.host.Peer, func(a rtnl.AddrEntry) {
		if addr := a.Prefix.Addr(); addr.IsGlobalUnicast() {
			addrs = append(addrs, addr)
		}
	})
	return addrs, err
}
