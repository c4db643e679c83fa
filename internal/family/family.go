// Package family is the one type for an IP address family. Whatever differs
// between IPv4 and IPv6 is data that a Family selects, so that code has one path
// for both.
package family

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Family is an IP address family. Its value is the kernel's AF_INET or AF_INET6;
// NFPROTO_IPV4 and NFPROTO_IPV6 are the same numbers. The zero value stands for
// no family.
type Family uint8

// The address families.
const (
	IPv4 Family = unix.AF_INET
	IPv6 Family = unix.AF_INET6
)

// All returns both families, IPv4 first.
func All() [2]Family { return [2]Family{IPv4, IPv6} }

// Of returns the family of a valid address. An IPv4 address mapped into IPv6 is
// IPv6.
func Of(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Allows reports whether a valid address is of the family. The zero value allows
// both families.
func (f Family) Allows(a netip.Addr) bool { return f == 0 || f == Of(a) }

// String returns "IPv4" or "IPv6", for messages.
func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "no address family"
}

// Proc returns the name of the family's directory below /proc/sys/net: "ipv4" or
// "ipv6".
func (f Family) Proc() string {
	if f == IPv4 {
		return "ipv4"
	}
	return "ipv6"
}

// Bytes returns the length of an address.
func (f Family) Bytes() int {
	if f == IPv4 {
		return 4
	}
	return 16
}

// Bits returns the length of an address, which is also the length of a host
// route's prefix.
func (f Family) Bits() int { return 8 * f.Bytes() }

// Filter returns those of the prefixes that belong to the family.
func (f Family) Filter(prefixes []netip.Prefix) []netip.Prefix {
	var ours []netip.Prefix
	for _, p := range prefixes {
		if Of(p.Addr()) == f {
			ours = append(ours, p)
		}
	}
	return ours
}
