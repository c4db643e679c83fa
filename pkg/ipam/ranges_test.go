package ipam

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func rangeOf(subnet, start, end, gateway string, exclude ...string) Range {
	r := Range{Subnet: netip.MustParsePrefix(subnet)}
	for text, to := range map[string]*netip.Addr{start: &r.Start, end: &r.End, gateway: &r.Gateway} {
		if text != "" {
			*to = netip.MustParseAddr(text)
		}
	}
	for _, x := range exclude {
		r.Exclude = append(r.Exclude, netip.MustParsePrefix(x))
	}
	return r
}

func TestCompleteRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		sets []RangeSet
		want string
	}{
		{"no subnet", []RangeSet{{{}}}, `a range has no subnet: it needs one such as "10.244.1.0/24"`},
		{"empty set", []RangeSet{{}}, `range set 1 is empty: it needs a range such as {"subnet": "10.244.1.0/24"}`},
		{"IPv4 too small", []RangeSet{{rangeOf("10.0.0.0/31", "", "", "")}},
			"pod subnet 10.0.0.0/31 is too small for a gateway and pods: use a /30 or larger"},
		{"IPv6 too small", []RangeSet{{rangeOf("fd00::/127", "", "", "")}},
			"pod subnet fd00::/127 is too small for a gateway and pods: use a /126 or larger"},
		{"host bits", []RangeSet{{rangeOf("10.0.0.5/24", "", "", "")}},
			"pod subnet 10.0.0.5/24 has host bits set: write 10.0.0.0/24"},
		{"start outside", []RangeSet{{rangeOf("10.0.0.0/24", "10.0.1.5", "", "")}},
			"rangeStart 10.0.1.5 is not a usable address of subnet 10.0.0.0/24: use one from 10.0.0.1 to 10.0.0.254"},
		{"end is the broadcast address", []RangeSet{{rangeOf("10.0.0.0/24", "", "10.0.0.255", "")}},
			"rangeEnd 10.0.0.255 is not a usable address of subnet 10.0.0.0/24: use one from 10.0.0.1 to 10.0.0.254"},
		{"gateway of the other family", []RangeSet{{rangeOf("fd00::/64", "", "", "10.0.0.1")}},
			"gateway 10.0.0.1 is not a usable address of subnet fd00::/64: use one from fd00::1 to fd00::ffff:ffff:ffff:ffff"},
		{"start after end", []RangeSet{{rangeOf("10.0.0.0/24", "10.0.0.9", "10.0.0.8", "")}},
			"rangeStart 10.0.0.9 is after rangeEnd 10.0.0.8"},
		{"exclude elsewhere", []RangeSet{{rangeOf("10.0.0.0/24", "", "", "", "10.0.1.0/28")}},
			"excluded 10.0.1.0/28 is not in subnet 10.0.0.0/24"},
		{"nothing left", []RangeSet{{rangeOf("10.0.0.0/24", "", "", "", "10.0.0.0/24")}},
			"range 10.0.0.1-10.0.0.254 has no address for a pod: all are taken by the gateway and exclude"},
		{"overlap", []RangeSet{{rangeOf("10.0.0.0/24", "", "", "")}, {rangeOf("10.0.0.0/16", "", "", "")}},
			"ranges 10.0.0.1-10.0.0.254 and 10.0.0.1-10.0.255.254 overlap: an address can only be in one"},
		{"mixed families", []RangeSet{{rangeOf("10.0.0.0/24", "", "", ""), rangeOf("fd00::/64", "", "", "")}},
			"subnets 10.0.0.0/24 and fd00::/64 are in one range set but of two address families: give each family a set of its own"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Complete(tc.sets)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestRangeSetGoesRound(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  RangeSet
		want string // the addresses in order, until the first comes again
	}{
		{"IPv4", RangeSet{rangeOf("10.0.0.0/29", "", "", "")}, "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"},
		{"IPv6", RangeSet{rangeOf("fd00::/126", "", "", "")}, "fd00::2 fd00::3"},
		{"gateway in the middle", RangeSet{rangeOf("10.0.0.0/29", "", "", "10.0.0.3")}, "10.0.0.1 10.0.0.2 10.0.0.4 10.0.0.5 10.0.0.6"},
		{"part", RangeSet{rangeOf("10.0.0.0/24", "10.0.0.100", "10.0.0.102", "")}, "10.0.0.100 10.0.0.101 10.0.0.102"},
		{"exclude at both ends", RangeSet{rangeOf("10.0.0.0/28", "", "", "", "10.0.0.0/30", "10.0.0.8/29")}, "10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.7"},
		{"excludes in each other", RangeSet{rangeOf("10.0.0.0/28", "", "", "", "10.0.0.4/32", "10.0.0.0/29")}, "10.0.0.8 10.0.0.9 10.0.0.10 10.0.0.11 10.0.0.12 10.0.0.13 10.0.0.14"},
		{"two ranges", RangeSet{rangeOf("10.0.0.0/30", "", "", ""), rangeOf("10.0.1.0/30", "", "", "")}, "10.0.0.2 10.0.1.2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sets, err := Complete([]RangeSet{tc.set})
			if err != nil {
				t.Fatal(err)
			}
			set := sets[0]
			var got []string
			for a := set.next(netip.Addr{}); len(got) == 0 || a.String() != got[0]; a = set.next(a) {
				got = append(got, a.String())
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, " "), tc.want)
			}
			if n := set.size(); n != uint64(len(got)) {
				t.Errorf("size is %d for %d addresses", n, len(got))
			}
			for _, a := range got {
				if _, ok := set.Find(netip.MustParseAddr(a)); !ok {
					t.Errorf("%s is given but not found", a)
				}
			}
			if _, ok := set.Find(set[0].Gateway); ok {
				t.Errorf("the gateway %s would be given", set[0].Gateway)
			}
		})
	}
}

func TestSizeOfLargeRanges(t *testing.T) {
	for _, tc := range []struct {
		subnet string
		want   uint64
	}{
		{"10.0.0.0/8", 1<<24 - 3},
		{"fd00::/64", 1<<64 - 1 - 1}, // without the network's address and the gateway
		{"fd00::/48", 1<<64 - 1},     // as many as can be counted
	} {
		sets, err := Complete(FromSubnets([]netip.Prefix{netip.MustParsePrefix(tc.subnet)}))
		if err != nil {
			t.Fatal(err)
		}
		if got := sets[0].size(); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.subnet, got, tc.want)
		}
	}
}

// FuzzRange looks for ranges in which the search for the next address leaves
// the range, gives what must not be given, or doesn't come round.
func FuzzRange(f *testing.F) {
	f.Add("10.0.0.0/28", "10.0.0.4", "10.0.0.9", "10.0.0.5", "10.0.0.8/31", "10.0.0.3")
	f.Add("fd00::/124", "", "", "", "fd00::8/126", "fd00::")
	f.Add("255.255.255.240/28", "", "", "", "255.255.255.248/29", "255.255.255.255")
	f.Fuzz(func(t *testing.T, subnet, start, end, gateway, exclude, from string) {
		var r Range
		var err error
		if r.Subnet, err = netip.ParsePrefix(subnet); err != nil || r.Subnet.Addr().BitLen()-r.Subnet.Bits() > 10 {
			return // not a small subnet
		}
		r.Start, _ = netip.ParseAddr(start)
		r.End, _ = netip.ParseAddr(end)
		r.Gateway, _ = netip.ParseAddr(gateway)
		if p, err := netip.ParsePrefix(exclude); err == nil {
			r.Exclude = []netip.Prefix{p.Masked()}
		}
		sets, err := Complete([]RangeSet{{r}})
		if err != nil {
			return // refused
		}
		set := sets[0]
		prev, _ := netip.ParseAddr(from)
		first := set.next(prev)
		var seen []netip.Addr
		for a := first; len(seen) == 0 || a != first; a = set.next(a) {
			switch {
			case !r.Subnet.Contains(a), a == set[0].Gateway, slices.ContainsFunc(r.Exclude, func(p netip.Prefix) bool { return p.Contains(a) }):
				t.Fatalf("%s is given", a)
			case len(seen) > 1024:
				t.Fatal("it never comes round")
			}
			seen = append(seen, a)
		}
		if set.size() != uint64(len(seen)) {
			t.Fatalf("size is %d for %d addresses", set.size(), len(seen))
		}
	})
}

func TestFromSubnets(t *testing.T) {
	for subnets, want := range map[string]string{
		"10.1.0.0/24":                           "10.1.0.0/24",
		"fd00::/64 10.1.0.0/24":                 "fd00::/64 | 10.1.0.0/24",
		"10.1.0.0/24 fd00::/64 10.2.0.0/24":     "10.1.0.0/24, 10.2.0.0/24 | fd00::/64",
		"fd00::/64 fd01::/64 10.1.0.0/24 f::/9": "fd00::/64, fd01::/64, f::/9 | 10.1.0.0/24",
	} {
		var ps []netip.Prefix
		for _, s := range strings.Fields(subnets) {
			ps = append(ps, netip.MustParsePrefix(s))
		}
		var sets []string
		for _, set := range FromSubnets(ps) {
			var ranges []string
			for _, r := range set {
				ranges = append(ranges, r.Subnet.String())
			}
			sets = append(sets, strings.Join(ranges, ", "))
		}
		if got := strings.Join(sets, " | "); got != want {
			t.Errorf("%s: got %s, want %s", subnets, got, want)
		}
	}
}
