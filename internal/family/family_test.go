package family

import (
	"net/netip"
	"slices"
	"testing"
)

func TestFamily(t *testing.T) {
	prefixes := []netip.Prefix{netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("10.0.0.0/8")}
	for _, tt := range []struct {
		address, name, proc string
		bits                int
		filtered            []netip.Prefix
	}{
		{"192.0.2.1", "IPv4", "ipv4", 32, prefixes[1:]},
		{"2001:db8::1", "IPv6", "ipv6", 128, prefixes[:1]},
		{"::ffff:192.0.2.1", "IPv6", "ipv6", 128, prefixes[:1]},
	} {
		f := Of(netip.MustParseAddr(tt.address))
		if f.String() != tt.name || f.Proc() != tt.proc || f.Bits() != tt.bits || !slices.Equal(f.Filter(prefixes), tt.filtered) {
			t.Errorf("%s: %s %s, %d bits, filters to %v", tt.address, f, f.Proc(), f.Bits(), f.Filter(prefixes))
		}
	}
	if all := All(); all != [2]Family{IPv4, IPv6} {
		t.Errorf("all families: %v", all)
	}
}
