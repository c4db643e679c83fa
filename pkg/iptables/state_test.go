package iptables

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/internal/family"
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
	for _, f := range family.All() {
		for _, text := range texts(s[f]) {
			lines = append(lines, f.String()+" "+text)
		}
	}
	return lines
}

func TestDesired(t *testing.T) {
	for _, tc := range []struct {
		name string
		own  []netip.Prefix
		want []string
	}{
		{"IPv4", prefixes("10.244.1.0/24"), []string{
			"IPv4 -i cni0 -j ACCEPT",
			"IPv4 -o cni0 -j ACCEPT",
			"IPv4 -o overlay0 -j ACCEPT",
			"IPv4 -i overlay0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		}},
		{"IPv6", prefixes("fd00:1::/64"), []string{
			"IPv6 -i cni0 -j ACCEPT",
			"IPv6 -o cni0 -j ACCEPT",
			"IPv6 -o overlay0 -j ACCEPT",
			"IPv6 -i overlay0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		}},
		{"none", nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Desired(Config{Own: tc.own, Bridge: "cni0", Tunnel: "overlay0"})
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
		_, err := Desired(Config{Own: own, Bridge: name, Tunnel: "overlay0"})
		if err == nil || !strings.Contains(err.Error(), "interface name") {
			t.Errorf("bridge %q: got %v", name, err)
		}
		if _, err := Desired(Config{Own: own, Bridge: "cni0", Tunnel: name}); err == nil {
			t.Errorf("tunnel %q was taken", name)
		}
	}
}
