package subnet

import (
	"net/netip"
	"testing"
)

func TestEverythingFollowsFromTheSubnet(t *testing.T) {
	for _, tc := range []struct {
		subnet, gateway, vtep, last string
		mac                         string // must never change: nodes compute it about each other
	}{
		{"10.244.1.0/24", "10.244.1.1", "10.244.1.0", "10.244.1.255", "6a:99:fb:07:24:bb"},
		{"10.0.0.4/30", "10.0.0.5", "10.0.0.4", "10.0.0.7", ""},
		{"fd00:1::/64", "fd00:1::1", "fd00:1::", "fd00:1::ffff:ffff:ffff:ffff", ""},
	} {
		t.Run(tc.subnet, func(t *testing.T) {
			p := netip.MustParsePrefix(tc.subnet)
			for _, v := range []struct{ what, got, want string }{
				{"gateway", Gateway(p).String(), tc.gateway},
				{"VTEP", VTEP(p).String(), tc.vtep},
				{"last", Last(p).String(), tc.last},
			} {
				if v.got != v.want {
					t.Errorf("%s is %s, want %s", v.what, v.got, v.want)
				}
			}
			mac := VTEPMAC([]netip.Prefix{p})
			if mac[0]&3 != 2 {
				t.Errorf("MAC %s is not a locally administered unicast address", mac)
			}
			if tc.mac != "" && mac.String() != tc.mac {
				t.Errorf("MAC is %s, want %s: nodes of other versions would drop its frames", mac, tc.mac)
			}
		})
	}
}

func TestVTEPMACDoesNotDependOnTheOrder(t *testing.T) {
	a, b := netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:1::/64")
	if x, y := VTEPMAC([]netip.Prefix{a, b}), VTEPMAC([]netip.Prefix{b, a}); x.String() != y.String() {
		t.Errorf("%s and %s for the same subnets", x, y)
	}
}

func TestMACsOfManySubnetsDiffer(t *testing.T) {
	seen := map[string]netip.Prefix{}
	for i := range 1 << 16 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		mac := VTEPMAC([]netip.Prefix{p}).String()
		if other, ok := seen[mac]; ok {
			t.Fatalf("%s and %s both have %s", p, other, mac)
		}
		seen[mac] = p
	}
}

func TestCheck(t *testing.T) {
	for _, tc := range []struct{ subnet, want string }{
		{"10.244.1.0/24", ""},
		{"10.244.1.0/30", ""},
		{"fd00::/126", ""},
		{"10.244.1.0/31", "pod subnet 10.244.1.0/31 is too small for a gateway and pods: use a /30 or larger"},
		{"fd00::/127", "pod subnet fd00::/127 is too small for a gateway and pods: use a /126 or larger"},
		{"10.244.1.9/24", "pod subnet 10.244.1.9/24 has host bits set: write 10.244.1.0/24"},
		{"::ffff:10.0.0.0/120", "pod subnet ::ffff:10.0.0.0/120 is an IPv4-mapped IPv6 prefix: write it as IPv4"},
		{"224.0.0.0/24", "pod subnet 224.0.0.0/24 is not a range of unicast addresses that can be routed: it overlaps 224.0.0.0/4 (multicast)"},
		{"fe80::/64", "pod subnet fe80::/64 is not a range of unicast addresses that can be routed: it overlaps fe80::/10 (link-local)"},
		{"127.0.0.0/24", "pod subnet 127.0.0.0/24 is not a range of unicast addresses that can be routed: it overlaps 127.0.0.0/8 (loopback)"},
		{"0.0.0.0/0", "pod subnet 0.0.0.0/0 is not a range of unicast addresses that can be routed: it overlaps 0.0.0.0/8 (this network)"},
		{"0.1.0.0/16", "pod subnet 0.1.0.0/16 is not a range of unicast addresses that can be routed: it overlaps 0.0.0.0/8 (this network)"},
		{"126.0.0.0/7", "pod subnet 126.0.0.0/7 is not a range of unicast addresses that can be routed: it overlaps 127.0.0.0/8 (loopback)"},
		{"169.254.7.0/24", "pod subnet 169.254.7.0/24 is not a range of unicast addresses that can be routed: it overlaps 169.254.0.0/16 (link-local)"},
		{"240.1.0.0/24", "pod subnet 240.1.0.0/24 is not a range of unicast addresses that can be routed: it overlaps 240.0.0.0/4 (reserved)"},
		{"255.255.255.0/24", "pod subnet 255.255.255.0/24 is not a range of unicast addresses that can be routed: it overlaps 240.0.0.0/4 (reserved)"},
		{"::/64", "pod subnet ::/64 is not a range of unicast addresses that can be routed: it overlaps ::/96 (unspecified, loopback and deprecated IPv4-compatible)"},
		{"fe80::/9", "pod subnet fe80::/9 is not a range of unicast addresses that can be routed: it overlaps fe80::/10 (link-local)"},
		{"ff05::/64", "pod subnet ff05::/64 is not a range of unicast addresses that can be routed: it overlaps ff00::/8 (multicast)"},
		{"192.0.2.0/24", ""}, {"198.51.100.0/24", ""}, {"203.0.113.0/24", ""}, {"100.64.0.0/16", ""}, {"198.18.0.0/24", ""}, {"2001:db8::/64", ""}, {"2002::/64", ""},
	} {
		got := ""
		if err := Check(netip.MustParsePrefix(tc.subnet)); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.subnet, got, tc.want)
		}
	}
	if err := Check(netip.Prefix{}); err == nil {
		t.Error("the zero prefix is accepted")
	}
}
