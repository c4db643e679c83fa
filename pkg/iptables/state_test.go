package iptables

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// written is a State as text.
func written(s State) []string {
	var lines []string
	for _, c := range s {
		for _, text := range c.texts() {
			lines = append(lines, string(c.Family)+" "+c.Spot.Chain+" "+text)
		}
	}
	return lines
}

func TestForward(t *testing.T) {
	for _, tc := range []struct {
		name string
		own  []netip.Prefix
		want []string
	}{
		{"IPv4", prefixes("10.244.1.0/24"), []string{
			"IPv4 OVERLAY-CNI-FWD -i cni0 -j ACCEPT",
			"IPv4 OVERLAY-CNI-FWD -o cni0 -j ACCEPT",
			"IPv4 OVERLAY-CNI-FWD -o overlay0 -j ACCEPT",
			"IPv4 OVERLAY-CNI-FWD -i overlay0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		}},
		{"IPv6", prefixes("fd00:1::/64"), []string{
			"IPv6 OVERLAY-CNI-FWD -i cni0 -j ACCEPT",
			"IPv6 OVERLAY-CNI-FWD -o cni0 -j ACCEPT",
			"IPv6 OVERLAY-CNI-FWD -o overlay0 -j ACCEPT",
			"IPv6 OVERLAY-CNI-FWD -i overlay0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		}},
		{"none", nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Forward(Pods{Own: tc.own, Bridge: "cni0", Tunnel: "overlay0"})
			must(t, err)
			if diff := cmp.Diff(tc.want, written(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestInstead(t *testing.T) {
	config := firewall.Config{
		Own:            prefixes("10.244.1.0/24", "fd00:0:0:1::/64"),
		Network:        prefixes("10.244.0.0/24", "10.244.1.0/24", "10.244.7.0/24", "fd00:0:0:1::/64", "fd00:0:0:2::/64"),
		NoMasqueradeTo: prefixes("192.0.2.7/32", "192.0.2.0/25", "2001:db8::/32"),
		Masquerade:     true, Bridge: "cni0",
	}
	redirects := []string{
		"IPv4 OVERLAY-CNI-OUTPUT -o cni0 -p icmp -m icmp --icmp-type 5 -j DROP",
		"IPv6 OVERLAY-CNI-OUTPUT -o cni0 -p ipv6-icmp -m icmp6 --icmpv6-type 137 -j DROP",
	}
	off := config
	off.Masquerade = false
	for _, tc := range []struct {
		name   string
		config firewall.Config
		want   []string
	}{
		{"masquerading", config, []string{
			redirects[0],
			"IPv4 OVERLAY-CNI-POSTRTG -o cni0 -j RETURN",
			"IPv4 OVERLAY-CNI-POSTRTG -d 10.244.0.0/23 -j RETURN",
			"IPv4 OVERLAY-CNI-POSTRTG -d 10.244.7.0/24 -j RETURN",
			"IPv4 OVERLAY-CNI-POSTRTG -d 192.0.2.0/25 -j RETURN",
			"IPv4 OVERLAY-CNI-POSTRTG -d 224.0.0.0/4 -j RETURN",
			"IPv4 OVERLAY-CNI-POSTRTG -s 10.244.1.0/24 -j MASQUERADE --random-fully",
			redirects[1],
			"IPv6 OVERLAY-CNI-POSTRTG -o cni0 -j RETURN",
			"IPv6 OVERLAY-CNI-POSTRTG -d 2001:db8::/32 -j RETURN",
			"IPv6 OVERLAY-CNI-POSTRTG -d fd00:0:0:1::/64 -j RETURN",
			"IPv6 OVERLAY-CNI-POSTRTG -d fd00:0:0:2::/64 -j RETURN",
			"IPv6 OVERLAY-CNI-POSTRTG -d ff00::/8 -j RETURN",
			"IPv6 OVERLAY-CNI-POSTRTG -s fd00:0:0:1::/64 -j MASQUERADE --random-fully",
		}},
		{"no masquerading", off, redirects},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Instead(tc.config)
			must(t, err)
			if diff := cmp.Diff(tc.want, written(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNamesThatIptablesTakesForOthers(t *testing.T) {
	own := prefixes("10.244.1.0/24")
	for _, name := range []string{"", "cni+", "a b", `a"b`, "!a", "sixteen-bytes-lo"} {
		_, err := Forward(Pods{Own: own, Bridge: name, Tunnel: "overlay0"})
		if err == nil || !strings.Contains(err.Error(), "interface name") {
			t.Errorf("bridge %q: got %v", name, err)
		}
		if _, err := Forward(Pods{Own: own, Bridge: "cni0", Tunnel: name}); err == nil {
			t.Errorf("tunnel %q was taken", name)
		}
		if _, err := Instead(firewall.Config{Own: own, Bridge: name}); err == nil {
			t.Errorf("bridge %q was taken", name)
		}
	}
}

func TestAggregate(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"none", "", ""},
		{"one", "10.0.0.0/24", "10.0.0.0/24"},
		{"twice", "10.0.0.0/24 10.0.0.0/24", "10.0.0.0/24"},
		{"halves", "10.0.1.0/24 10.0.0.0/24", "10.0.0.0/23"},
		{"neighbours that are no halves", "10.0.1.0/24 10.0.2.0/24", "10.0.1.0/24 10.0.2.0/24"},
		{"halves of halves", "10.0.0.0/24 10.0.1.0/24 10.0.2.0/23", "10.0.0.0/22"},
		{"inside", "10.0.0.0/16 10.0.7.0/24", "10.0.0.0/16"},
		{"a half's part", "10.0.0.0/24 10.0.1.0/24 10.0.1.7/32", "10.0.0.0/23"},
		{"everything", "0.0.0.0/1 128.0.0.0/1", "0.0.0.0/0"},
		{"host bits", "10.0.0.7/24", "10.0.0.0/24"},
		{"IPv6", "fd00::/64 fd00:0:0:1::/64 fd00:0:0:2::/64", "fd00::/63 fd00:0:0:2::/64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := aggregate(prefixes(strings.Fields(tc.in)...))
			if diff := cmp.Diff(prefixes(strings.Fields(tc.want)...), got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The other form of the same thing, ranges, is package firewall's.
func TestAggregateCoversTheSame(t *testing.T) {
	equal := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 1))
		var in []netip.Prefix
		for range random.IntN(40) {
			address := netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(16)), byte(random.IntN(256))})
			in = append(in, netip.PrefixFrom(address, 20+random.IntN(13)))
		}
		got := aggregate(in)
		if diff := cmp.Diff(firewall.Merge(in), firewall.Merge(got), equal); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		if diff := cmp.Diff(got, aggregate(got), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Fatalf("seed %d: a second time: %s", seed, diff)
		}
	}
}

// iptables -S prints no prefix that is any address.
func TestAnyAddressIsNotWritten(t *testing.T) {
	rule := Rule{Destination: netip.MustParsePrefix("0.0.0.0/0"), Target: "RETURN"}
	if got := rule.String(); got != "-j RETURN" {
		t.Errorf("got %q", got)
	}
}
