package etcd

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestSubnetsAreNumbered(t *testing.T) {
	for _, tt := range []struct {
		network string
		length  int
		number  uint64
		want    string
	}{
		{"10.244.0.0/16", 24, 0, "10.244.0.0/24"},
		{"10.244.0.0/16", 24, 255, "10.244.255.0/24"},
		{"10.0.0.0/8", 30, 1<<22 - 1, "10.255.255.252/30"},
		{"10.244.1.0/24", 24, 0, "10.244.1.0/24"},
		{"fd00:1::/48", 64, 65535, "fd00:1:0:ffff::/64"},
		{"fd00:1::/32", 64, 1<<32 - 1, "fd00:1:ffff:ffff::/64"},
		{"fd00:1::/60", 72, 4095, "fd00:1:0:f:ff00::/72"},
		{"fd00:1::/64", 96, 1 << 31, "fd00:1:0:0:8000::/96"},
		{"fd00:1::/100", 126, 3, "fd00:1::c/126"},
	} {
		p := pool{network: netip.MustParsePrefix(tt.network), length: tt.length}
		got := p.subnet(tt.number)
		if got.String() != tt.want || !p.fits(got) {
			t.Errorf("number %d of %s is %s, want %s", tt.number, tt.network, got, tt.want)
		}
		if back := p.number(got.Addr()); back != tt.number {
			t.Errorf("%s is number %d, want %d", got, back, tt.number)
		}
	}
}

func TestFree(t *testing.T) {
	for name, tt := range map[string]struct {
		network string
		length  int
		exclude []netip.Prefix
		start   uint64
		taken   []netip.Prefix
		want    string
	}{
		"nothing taken":              {"10.0.0.0/22", 24, nil, 2, nil, "10.0.2.0/24"},
		"start beyond the end":       {"10.0.0.0/22", 24, nil, 7, nil, "10.0.3.0/24"},
		"the next":                   {"10.0.0.0/22", 24, nil, 1, prefixes("10.0.1.0/24"), "10.0.2.0/24"},
		"round the end":              {"10.0.0.0/22", 24, nil, 2, prefixes("10.0.3.0/24", "10.0.2.0/24"), "10.0.0.0/24"},
		"round to the last":          {"10.0.0.0/22", 24, nil, 2, prefixes("10.0.3.0/24", "10.0.2.0/24", "10.0.0.0/24"), "10.0.1.0/24"},
		"all taken":                  {"10.0.0.0/23", 24, nil, 1, prefixes("10.0.0.0/24", "10.0.1.0/24"), ""},
		"taken by a smaller one":     {"10.0.0.0/23", 24, nil, 0, prefixes("10.0.0.128/26"), "10.0.1.0/24"},
		"taken by a larger one":      {"10.0.0.0/21", 24, nil, 1, prefixes("10.0.0.0/22"), "10.0.4.0/24"},
		"taken by a larger network":  {"10.0.0.0/21", 24, nil, 1, prefixes("10.0.0.0/8"), ""},
		"others don't matter":        {"10.0.0.0/22", 24, nil, 1, prefixes("10.9.1.0/24", "fd00::/64"), "10.0.1.0/24"},
		"excluded":                   {"10.0.0.0/22", 24, prefixes("10.0.0.0/23"), 0, prefixes("10.0.2.0/24"), "10.0.3.0/24"},
		"one for all":                {"10.0.0.0/24", 24, nil, 5, nil, "10.0.0.0/24"},
		"IPv6 over the 64 bit bound": {"fd00::/62", 65, nil, 7, prefixes("fd00:0:0:3:8000::/65"), "fd00::/65"},
		"overlapping spans":          {"10.0.0.0/21", 24, prefixes("10.0.0.0/22"), 0, prefixes("10.0.1.0/24", "10.0.4.0/25"), "10.0.5.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			p := pool{network: netip.MustParsePrefix(tt.network), length: tt.length, exclude: tt.exclude}
			got, ok := p.free(tt.start, tt.taken)
			if ok != (tt.want != "") || ok && got.String() != tt.want {
				t.Errorf("got %s, %v; want %s", got, ok, tt.want)
			}
		})
	}
}

// A pool is used up to the last subnet, wherever the search begins, and no two
// overlap. The seed is printed when it fails.
func TestPoolIsUsedUp(t *testing.T) {
	for _, network := range prefixes("10.7.0.0/20", "fd00::/58") {
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		p := pool{network: network, length: network.Bits() + 6}
		taken := []netip.Prefix{p.subnet(3), netip.PrefixFrom(p.subnet(8).Addr(), p.length+2), netip.PrefixFrom(p.subnet(16).Addr(), p.length-2)}
		free := 64 - 1 - 1 - 4
		for i := range free {
			s, ok := p.free(random.Uint64(), taken)
			if !ok || slices.ContainsFunc(taken, s.Overlaps) || !p.fits(s) {
				t.Fatalf("seed %d: number %d is %s, %v", seed, i, s, ok)
			}
			taken = append(taken, s)
		}
		if s, ok := p.free(random.Uint64(), taken); ok {
			t.Errorf("seed %d: %s of a full network", seed, s)
		}
	}
}

func TestChoose(t *testing.T) {
	four := pool{network: netip.MustParsePrefix("10.0.0.0/22"), length: 24}
	six := pool{network: netip.MustParsePrefix("fd00::/62"), length: 64}
	all := func(node, host string, texts ...string) (list []held) {
		for _, p := range prefixes(texts...) {
			list = append(list, held{prefix: p, holder: holder{Node: node, Host: host}})
		}
		return list
	}
	tests := map[string]struct {
		pools            []pool
		names            []string
		prefer           []netip.Prefix
		held             []held
		want, take, drop []netip.Prefix
		err              error
	}{
		"keeps what it holds": {
			pools: []pool{four, six}, held: append(all("a", "A", "10.0.1.0/24", "fd00:0:0:2::/64"), all("b", "B", "10.0.0.0/24")...),
			want: prefixes("10.0.1.0/24", "fd00:0:0:2::/64")},
		"what it holds without asking for it": {
			pools: []pool{four}, held: all("a", "A", "10.0.3.0/24"), want: prefixes("10.0.3.0/24")},
		"prefers": {
			pools: []pool{four, six}, prefer: prefixes("fd00:0:0:3::/64", "10.0.2.0/24"),
			want: prefixes("10.0.2.0/24", "fd00:0:0:3::/64"), take: prefixes("10.0.2.0/24", "fd00:0:0:3::/64")},
		"prefers the second": {
			pools: []pool{four}, prefer: prefixes("10.0.2.0/24", "10.0.1.0/24"), held: all("b", "B", "10.0.2.0/24"),
			want: prefixes("10.0.1.0/24"), take: prefixes("10.0.1.0/24")},
		"a second family": {
			pools: []pool{four, six}, held: append(all("a", "A", "10.0.1.0/24"), all("b", "B", "fd00::/64", "fd00:0:0:1::/64", "fd00:0:0:2::/64")...),
			want: prefixes("10.0.1.0/24", "fd00:0:0:3::/64"), take: prefixes("fd00:0:0:3::/64")},
		"drops what doesn't fit, and may take a part of it": {
			pools: []pool{{network: four.network, length: 25}}, held: append(all("a", "A", "10.0.1.0/24"), all("b", "B", "10.0.0.0/24", "10.0.2.0/23")...),
			prefer: prefixes("10.0.1.128/25"), want: prefixes("10.0.1.128/25"), take: prefixes("10.0.1.128/25"), drop: prefixes("10.0.1.0/24")},
		"another machine of the same name": {
			pools: []pool{four}, held: append(all("a", "B", "10.0.1.0/24"), all("b", "B", "10.0.0.0/24", "10.0.3.0/24")...), prefer: prefixes("10.0.1.0/24"),
			want: prefixes("10.0.2.0/24"), take: prefixes("10.0.2.0/24")},
		"under its old name": {
			pools: []pool{four}, names: []string{"a", "old"}, held: all("old", "A", "10.0.1.0/24"), want: prefixes("10.0.1.0/24")},
		"its own machine's other host": {
			pools: []pool{four}, held: all("other", "A", "10.0.0.0/23", "10.0.3.0/24"), want: prefixes("10.0.2.0/24"), take: prefixes("10.0.2.0/24")},
		"full": {pools: []pool{six, four}, held: all("b", "B", "10.0.0.0/22"), err: ErrNoFreeSubnet},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.names == nil {
				tt.names = []string{"a"}
			}
			got, err := choose(chooseInput{config: config{pools: tt.pools}, names: tt.names, host: "A", prefer: tt.prefer}, tt.held)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			var drop []netip.Prefix
			for _, h := range got.drop {
				drop = append(drop, h.prefix)
			}
			if !slices.Equal(got.subnets, tt.want) || !slices.Equal(got.take, tt.take) || !slices.Equal(drop, tt.drop) {
				t.Errorf("got %v, take %v, drop %v", got.subnets, got.take, drop)
			}
		})
	}
}

// Hosts that come together, and those that were too slow, look in other places.
func TestStartDiffers(t *testing.T) {
	seen := map[uint64]bool{}
	for _, name := range []string{"a", "b"} {
		for attempt := range 3 {
			seen[chooseInput{names: []string{name}, attempt: attempt}.start()] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d different starts of 6", len(seen))
	}
}
