package subnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// maxBits maps the length of an address in bits to the longest allowed prefix:
// it has room for a network address, a gateway and two pods.
var maxBits = map[int]int{32: 30, 128: 126}

// Check reports why p cannot be a node's pod subnet: it must be a valid prefix
// in canonical form (no host bits), unicast, and at most a /30 (IPv4) or a
// /126 (IPv6).
func Check(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return fmt.Errorf("pod subnet %q is not a prefix such as 10.244.1.0/24", p)
	case p.Addr().Is4In6():
		return fmt.Errorf("pod subnet %s is an IPv4-mapped IPv6 prefix: write it as IPv4", p)
	case p != p.Masked():
		return fmt.Errorf("pod subnet %s has host bits set: write %s", p, p.Masked())
	}
	if special, overlaps := Special(p); overlaps {
		return fmt.Errorf("pod subnet %s is not a range of unicast addresses that can be routed: it overlaps %s", p, special)
	}
	if limit := maxBits[p.Addr().BitLen()]; p.Bits() > limit {
		return fmt.Errorf("pod subnet %s is too small for a gateway and pods: use a /%d or larger", p, limit)
	}
	return nil
}

// Special returns the range that p overlaps and that no host or pod can have an
// address of, because addresses there mean no single host, mean the host itself, or
// mean another host on each link. Some programs use 240.0.0.0/4 nevertheless, but
// others drop it: it is reserved (RFC 1112, section 4).
func Special(p netip.Prefix) (Range, bool) {
	// Not a variable of the package, which would cost each start of the plugin.
	for _, r := range [...]Range{
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{0}), 8), "this network"},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8), "loopback"},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254}), 16), "link-local"},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4), "multicast"},
		{netip.PrefixFrom(netip.AddrFrom4([4]byte{240}), 4), "reserved"},
		{netip.PrefixFrom(netip.IPv6Unspecified(), 96), "unspecified, loopback and deprecated IPv4-compatible"},
		{netip.PrefixFrom(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff}), 96), "IPv4-mapped"},
		{netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 10), "link-local"},
		{netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8), "multicast"},
	} {
		if r.Overlaps(p) {
			return r, true
		}
	}
	return Range{}, false
}

// Range is a range of addresses with a meaning of its own.
type Range struct {
	netip.Prefix
	Meaning string
}

func (r Range) String() string { return fmt.Sprintf("%s (%s)", r.Prefix, r.Meaning) }

// Gateway is the first address after the network's own, which the bridge of
// the node holds: 10.244.1.1 for 10.244.1.0/24.
func Gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// VTEP is the subnet's own network address. It is the address of the node's
// VXLAN device, and the next hop by which the other nodes reach the subnet.
func VTEP(p netip.Prefix) netip.Addr { return p.Masked().Addr() }

// Last is the highest address of p: the broadcast address where p is IPv4.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// Host is addr as a prefix of its full length: /32 or /128.
func Host(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// Sort orders prefixes canonically: IPv4 before IPv6, then by address, then
// the larger network first. It returns a new slice.
func Sort(ps []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(ps)
	slices.SortFunc(sorted, netip.Prefix.Compare)
	return sorted
}

// VTEPMAC is the address of the VXLAN device of the node that has these pod
// subnets. Every node computes it for every other one, so it depends on
// nothing but the first subnet in canonical order (see Sort), and has to stay
// the same function for ever: nodes of different versions must agree.
func VTEPMAC(subnets []netip.Prefix) net.HardwareAddr {
	if len(subnets) == 0 {
		return nil
	}
	return MAC("vtep " + Sort(subnets)[0].Masked().String())
}

// MAC derives a locally administered unicast address (IEEE 802, bit 1 of the
// first octet set, bit 0 clear) from a name. Equal names give equal addresses.
func MAC(name string) net.HardwareAddr {
	mac := net.HardwareAddr(binary.BigEndian.AppendUint64(nil, Hash(name))[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// Hash spreads a name over 64 bits (XXH64, seed 0). It does not withstand an
// attacker, so names must come from the cluster's own operators and runtimes. A
// cryptographic hash would make every start of the plugin longer.
func Hash(name string) uint64 { return xxhash.Sum64String(name) }
