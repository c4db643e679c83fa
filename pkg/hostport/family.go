package hostport

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// family is everything in which IPv4 and IPv6 differ here.
type family struct {
	name     string // ends the names of the family's sets
	protocol byte   // NFPROTO_*, which is AF_* too
	size     int    // bytes of an address
	dataType uint32 // of an address, for nft
	source   int    // offset in the IP header
	dest     int    // offset in the IP header
	// except is an address of callers that no pod can be reached from: the kernel
	// lets nothing with it leave the host.
	except netip.Addr
}

// families are all that there are, IPv4 first. The types are nft's own numbers
// (src/datatype.c); offsets are those of RFC 791 and RFC 8200.
func families() [2]family {
	return [2]family{
		{name: "4", protocol: unix.NFPROTO_IPV4, size: 4, dataType: 7, source: 12, dest: 16},
		{name: "6", protocol: unix.NFPROTO_IPV6, size: 16, dataType: 8, source: 8, dest: 24, except: netip.IPv6Loopback()},
	}
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families()[0]
	}
	return families()[1]
}

func (f family) bits() int { return f.size * 8 }

// Names of the sets of the family.
func (f family) ports() string   { return "ports" + f.name }   // a port of all addresses
func (f family) bound() string   { return "bound" + f.name }   // a port of one address
func (f family) hairpin() string { return "hairpin" + f.name } // pods with ports

// maps tells whether the set is one that leads to pods.
func (f family) maps(set string) bool { return set == f.ports() || set == f.bound() }

// bridges is the name of the set of bridges whose pods have ports on 127.0.0.0/8.
const bridges = "bridges"
