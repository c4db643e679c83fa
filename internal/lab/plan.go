package lab

import (
	"math/big"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// plan is which addresses a host gets. It follows from the host's number.
type plan struct {
	underlay []netip.Prefix // eth0's addresses
	subnets  []netip.Prefix // for the pods
}

// planHost numbers hosts from 1, so host 1 is 192.168.77.1 with 10.244.1.0/24.
func planHost(c Config, number int) plan {
	var p plan
	for _, segment := range c.Segments {
		host := nth(segment, segment.Addr().BitLen(), number)
		p.underlay = append(p.underlay, netip.PrefixFrom(host.Addr(), segment.Bits()))
	}
	for _, network := range c.PodNetworks {
		p.subnets = append(p.subnets, nth(network, podBits(network.Addr()), number))
	}
	return p
}

// podBits is the usual size of one node's part of the pod network.
func podBits(addr netip.Addr) int {
	if addr.Is4() {
		return 24
	}
	return 64
}

// nth returns the prefix with number n, from 0, of those with the given length
// in network.
func nth(network netip.Prefix, bits, n int) netip.Prefix {
	b := network.Masked().Addr().AsSlice()
	offset := new(big.Int).Lsh(big.NewInt(int64(n)), uint(len(b)*8-bits))
	new(big.Int).Add(new(big.Int).SetBytes(b), offset).FillBytes(b)
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, bits)
}

// addrs are the addresses of prefixes.
func addrs(ps []netip.Prefix) []netip.Addr {
	var as []netip.Addr
	for _, p := range ps {
		as = append(as, p.Addr())
	}
	return as
}

// hosts are addresses as prefixes of their full lengths.
func hosts(as []netip.Addr) []netip.Prefix {
	var ps []netip.Prefix
	for _, a := range as {
		ps = append(ps, subnet.Host(a))
	}
	return ps
}
