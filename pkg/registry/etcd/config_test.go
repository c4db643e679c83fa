package etcd

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func comparePools() cmp.Option {
	return cmp.Options{cmp.AllowUnexported(config{}, pool{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
}

func TestParseConfig(t *testing.T) {
	four, six := netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:1::/48")
	tests := map[string]struct {
		text string
		want config
	}{
		"one family": {"networks: [10.244.0.0/16]", config{pools: []pool{{network: four, length: 24}}}},
		"two families, in their order": {"networks: [fd00:1::/48, 10.244.0.0/16]",
			config{pools: []pool{{network: six, length: 64}, {network: four, length: 24}}}},
		"lengths": {"networks:\n- 10.244.0.0/16\n- fd00:1::/48\nsubnetLengths: {ipv4: 16, ipv6: 80}",
			config{pools: []pool{{network: four, length: 16}, {network: six, length: 80}}}},
		"exclude": {"exclude: [fd00:1::/56, 10.244.1.0/28, 10.244.9.0/24]\nnetworks: [10.244.0.0/16, fd00:1::/48]",
			config{pools: []pool{
				{network: four, length: 24, exclude: prefixes("10.244.1.0/28", "10.244.9.0/24")},
				{network: six, length: 64, exclude: prefixes("fd00:1::/56")}}}},
		"settings": {"settings: {mtu: 1400}\nnetworks: [10.244.0.0/16]\n",
			config{pools: []pool{{network: four, length: 24}}, settings: []byte("          {mtu: 1400}\n")}},
		"nothing set in mappings": {"networks: [10.244.0.0/16]\nexclude: []\nsubnetLengths: {}\n", config{pools: []pool{{network: four, length: 24}}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseConfig("k", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, comparePools()); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"empty":              {"", "k: is empty: expected networks, such as networks: [10.244.0.0/16]"},
		"no networks":        {"exclude: []", "k:1:1: networks: is missing: expected one network of a family, such as [10.244.0.0/16, fd00:1::/48]"},
		"no network":         {"networks: []", "k:1:1: networks: is missing: expected one network of a family, such as [10.244.0.0/16, fd00:1::/48]"},
		"unknown key":        {"networks: [10.244.0.0/16]\nnetwork: x", `k:2:1: unknown key "network": did you mean "networks"?`},
		"not YAML":           {"networks: [", "k:1: malformed YAML: did not find expected node content: check indentation, quotes and brackets near this place"},
		"not a network":      {"networks: [10.244.0.0]", `k:1:12: networks[0]: "10.244.0.0": expected a network such as 10.244.0.0/16 or fd00:1::/48`},
		"host bits":          {"networks: [10.244.0.1/16]", `k:1:12: networks[0]: "10.244.0.1/16": expected a network without host bits: write 10.244.0.0/16`},
		"IPv4 as IPv6":       {"networks: ['::ffff:10.0.0.0/104']", `k:1:12: networks[0]: "::ffff:10.0.0.0/104": expected a network in IPv4 form, not IPv4 in IPv6`},
		"twice a family":     {"networks: [10.244.0.0/16, 10.245.0.0/16]", "k:1:27: networks[1]: 10.245.0.0/16 is of the same family as 10.244.0.0/16: keep one of them"},
		"too small":          {"networks: [10.244.0.0/26]", "k:1:12: networks[0]: network 10.244.0.0/26 is smaller than the /24 that each host gets: set subnetLengths.ipv4 to 27 or more"},
		"too small parts":    {"networks: [10.244.0.0/16]\nsubnetLengths: {ipv4: 31}", "k:2:23: subnetLengths.ipv4: the subnets of network 10.244.0.0/16 are unusable: pod subnet 10.244.255.254/31 is too small for a gateway and pods: use a /30 or larger"},
		"too many":           {"networks: ['fd00::/16']", "k:1:12: networks[0]: network fd00::/16 has more than 2^32 parts of length /64: set subnetLengths.ipv6 to 48 or less"},
		"multicast":          {"networks: [239.0.0.0/16]", "k:1:12: networks[0]: the subnets of network 239.0.0.0/16 are unusable: pod subnet 239.0.255.0/24 is not a range of unicast addresses that can be routed: it overlaps 224.0.0.0/4 (multicast)"},
		"reserved inside":    {"networks: [0.0.0.0/2]", "k:1:12: networks[0]: network 0.0.0.0/2 overlaps 0.0.0.0/8 (this network): choose one of unicast addresses that can be routed"},
		"length not a word":  {"networks: [10.244.0.0/16]\nsubnetLengths: {ipv4: /24}", `k:2:23: subnetLengths.ipv4: "/24": expected a whole number of bits, such as 24`},
		"length too long":    {"networks: [10.244.0.0/16]\nsubnetLengths: {ipv4: 64}", `k:2:23: subnetLengths.ipv4: "64": expected a whole number of bits, such as 24`},
		"unused length":      {"networks: [10.244.0.0/16]\nsubnetLengths: {ipv6: 64}", "k:2:23: subnetLengths.ipv6: is for a family that has no network: add the network, or remove this line"},
		"exclude elsewhere":  {"networks: [10.244.0.0/16]\nexclude: [10.245.0.0/24]", "k:2:11: exclude[0]: 10.245.0.0/24 lies in none of the networks: remove it, or write a part of one"},
		"exclude too much":   {"networks: [10.244.0.0/16]\nexclude: [10.0.0.0/8]", "k:2:11: exclude[0]: 10.0.0.0/8 lies in none of the networks: remove it, or write a part of one"},
		"settings no values": {"networks: [10.244.0.0/16]\nsettings: 5", "k:2:11: settings: expected a mapping of the daemon's settings, such as {mtu: 1400}, or no line at all"},
		"all mistakes": {"networks: [x]\nexclude: [y]\n",
			`k:1:12: networks[0]: "x": expected a network such as 10.244.0.0/16 or fd00:1::/48` + "\n" +
				`k:2:11: exclude[0]: "y": expected a network such as 10.244.0.0/16 or fd00:1::/48`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseConfig("k", []byte(tt.text))
			if text(err) != tt.want {
				t.Errorf("got  %v, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

// The daemon's messages about settings give lines and columns: those have to be
// right for the configuration.
func TestSettingsStayWhereTheyAre(t *testing.T) {
	tests := map[string]string{
		"block":             "networks: [10.244.0.0/16]\nsettings:\n  a: 1 # é\n  b:\n    c: 2\nexclude: []\n",
		"last":              "# é\nnetworks: [10.244.0.0/16]\nsettings:\n  a: 1\n  b: {c: 2}",
		"in a line":         "settings: {a: 1, b: {c: 2}} # é\nnetworks: [10.244.0.0/16]\n",
		"in several":        "settings: {a: 1,\n  b: {c: 2}}\nnetworks: [10.244.0.0/16]\n",
		"quoted key before": "'networks': [10.244.0.0/16]\n\"settings\": {a: 1, b: {c: 2}}\n",
		"windows":           "networks: [10.244.0.0/16]\r\nsettings:\r\n  a: 1\r\n  b:\r\n    c: 2\r\nexclude: []\r\n",
	}
	for name, document := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := parseConfig("k", []byte(document))
			if err != nil {
				t.Fatal(err)
			}
			var whole struct{ Settings yaml.Node }
			var part yaml.Node
			if err := yaml.Unmarshal([]byte(document), &whole); err != nil {
				t.Fatal(err)
			}
			if err := yaml.Unmarshal(c.settings, &part); err != nil {
				t.Fatalf("%v in %q", err, c.settings)
			}
			if diff := cmp.Diff(places(&whole.Settings), places(part.Content[0])); diff != "" {
				t.Errorf("places (-want +got):\n%s", diff)
			}
		})
	}
}

// places lists the values in a node with line and column.
func places(n *yaml.Node) []any {
	all := []any{n.Value, n.Line, n.Column}
	for _, inner := range n.Content {
		all = append(all, places(inner)...)
	}
	return all
}

func TestSettingsInBracesAreWrittenAnew(t *testing.T) {
	c, err := parseConfig("k", []byte(`{"networks": ["10.244.0.0/16"], "settings": {"mtu": 1400}}`))
	if got := strings.TrimSpace(string(c.settings)); err != nil || got != `{"mtu": 1400}` {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestExampleIsRight(t *testing.T) {
	data, err := os.ReadFile("../../../conf/etcd-config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseConfig("conf/etcd-config.yaml", data); err != nil {
		t.Error(err)
	}
}

// An accepted configuration has pools with usable subnets, and settings that are
// YAML.
func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{
		config4, "networks: [fd00:1::/48, 10.0.0.0/8]\nsubnetLengths: {ipv4: 30, ipv6: 80}\nexclude: [10.0.0.0/9, 'fd00:1::/127']\nsettings:\n a: 1\n",
		"settings: {a: [1,\n2]}\nnetworks: [0.0.0.0/1]", "{settings: {a: b}, networks: [10.0.0.0/30]}", "? settings\n: {a: 1}\nnetworks: [10.0.0.0/8]",
		"networks: [10.0.0.0/8]\rsettings: {a: 1}", "networks: [10.0.0.0/8]\u2028settings:\u2028  a: 1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig("k", data)
		if err != nil {
			return
		}
		if len(c.pools) == 0 || len(c.pools) > 2 {
			t.Fatalf("%d pools", len(c.pools))
		}
		for _, p := range c.pools {
			if s, ok := p.free(12345, nil); ok && !p.fits(s) {
				t.Errorf("%v gives %s", p, s)
			}
		}
	})
}
