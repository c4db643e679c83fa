package firewall_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

func prefixes(texts ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		ps[i] = netip.MustParsePrefix(s)
	}
	return ps
}

// testConfig is a node of a dual stack network of three.
func testConfig() firewall.Config {
	return firewall.Config{
		Own:            prefixes("10.244.1.0/24", "fd00:1::/64"),
		Network:        prefixes("10.244.1.0/24", "10.244.2.0/24", "10.244.9.0/24", "fd00:1::/64", "fd00:9::/64"),
		NoMasqueradeTo: prefixes("192.0.2.0/24", "2001:db8::/32"),
		Masquerade:     true,
		Bridge:         "cni0",
		Tunnel:         testTunnel(),
	}
}

func testTunnel() firewall.Tunnel {
	return firewall.Tunnel{Device: "overlay0", VNI: 1, Port: 4789, Peers: []netip.Addr{
		netip.MustParseAddr("192.168.77.2"), netip.MustParseAddr("fd77::2"), netip.MustParseAddr("192.168.77.9"), netip.MustParseAddr("192.168.77.2"),
	}}
}

func desired(t testing.TB, c firewall.Config) *nft.Table {
	t.Helper()
	table, err := firewall.Desired(c)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// elements lists the elements of a set as nft does.
func elements(table *nft.Table, set string) string {
	var texts []string
	for _, s := range table.Sets {
		for _, e := range table.Elements {
			if s.Name == set && e.Set == set {
				texts = append(texts, s.Text(e))
			}
		}
	}
	return strings.Join(texts, " ")
}

func TestDesiredElements(t *testing.T) {
	for _, tc := range []struct {
		name string
		c    firewall.Config
		want map[string]string
	}{
		{"dual stack", testConfig(), map[string]string{
			"peers4": "192.168.77.2 192.168.77.9", "peers6": "fd77::2",
			"exempt4":  "192.0.2.0-192.0.2.255 224.0.0.0-239.255.255.255",
			"exempt6":  "2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
			"network4": "10.244.1.0-10.244.2.255 10.244.9.0-10.244.9.255",
			"network6": "fd00:1::-fd00:1::ffff:ffff:ffff:ffff fd00:9::-fd00:9::ffff:ffff:ffff:ffff",
			"own4":     "10.244.1.0-10.244.1.255",
			"own6":     "fd00:1::-fd00:1::ffff:ffff:ffff:ffff",
		}},
		{"masquerade off", firewall.Config{Own: prefixes("10.244.1.0/24"), Bridge: "cni0", Tunnel: firewall.Tunnel{Device: "overlay0"}}, map[string]string{
			"network4": "10.244.1.0-10.244.1.255", "network6": "", "peers4": "", "peers6": "",
		}},
		{"own subnets belong to the network", firewall.Config{Own: prefixes("10.244.1.0/24"), Masquerade: true, Bridge: "cni0", Tunnel: testTunnel()}, map[string]string{
			"exempt4": "224.0.0.0-239.255.255.255",
			"exempt6": "ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
			"own4":    "10.244.1.0-10.244.1.255", "network4": "10.244.1.0-10.244.1.255",
			"own6": "", "network6": "", "peers4": "192.168.77.2 192.168.77.9", "peers6": "fd77::2",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table, got := desired(t, tc.c), map[string]string{}
			for _, s := range table.Sets {
				got[s.Name] = elements(table, s.Name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Covering prefixes by ranges is seen in the set of destinations that are exempt,
// beside multicast.
func TestRanges(t *testing.T) {
	for _, tc := range []struct {
		name, v4, v6 string
		want4, want6 string
	}{
		{"none", "", "", "", ""},
		{"one", "10.0.1.0/24", "fd00::/64", "10.0.1.0-10.0.1.255", "fd00::-fd00::ffff:ffff:ffff:ffff"},
		{"single addresses", "10.0.0.1/32 10.0.0.3/32", "fd00::1/128 fd00::3/128", "10.0.0.1 10.0.0.3", "fd00::1 fd00::3"},
		{"adjacent in any order", "10.0.2.0/24 10.0.1.0/24", "fd00:0:0:2::/64 fd00:0:0:1::/64",
			"10.0.1.0-10.0.2.255", "fd00:0:0:1::-fd00::2:ffff:ffff:ffff:ffff"},
		{"gap of one", "10.0.0.0/32 10.0.0.2/32", "fd00::/128 fd00::2/128", "10.0.0.0 10.0.0.2", "fd00:: fd00::2"},
		{"nested, the inner one ends first", "10.0.0.0/8 10.1.0.0/16", "fd00::/16 fd00:1::/32",
			"10.0.0.0-10.255.255.255", "fd00::-fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"same twice", "10.0.0.0/24 10.0.0.0/24", "fd00::/120 fd00::/120", "10.0.0.0-10.0.0.255", "fd00::-fd00::ff"},
		{"up to the highest address", "255.255.255.255/32 240.0.0.0/4", "ffff::/16", "224.0.0.0-255.255.255.255", "ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"lowest address", "0.0.0.0/32", "::/128", "0.0.0.0", "::"},
		{"everything", "0.0.0.0/0 10.0.0.0/8", "::/0 fd00::/8", "0.0.0.0-255.255.255.255", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		for _, f := range []struct{ set, in, want, multicast string }{
			{"exempt4", tc.v4, tc.want4, "224.0.0.0-239.255.255.255"},
			{"exempt6", tc.v6, tc.want6, "ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		} {
			t.Run(tc.name+" "+f.set, func(t *testing.T) {
				c := testConfig()
				c.NoMasqueradeTo = prefixes(strings.Fields(f.in)...)
				got := strings.TrimSpace(strings.TrimSuffix(elements(desired(t, c), f.set), f.multicast))
				if want := strings.TrimSuffix(f.want, f.multicast); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

func TestDesiredRefuses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(*firewall.Config)
		want  string
	}{
		{"no bridge", func(c *firewall.Config) { c.Bridge = "" }, "bridge name"},
		{"no tunnel", func(c *firewall.Config) { c.Tunnel.Device = "" }, "tunnel name"},
		{"long bridge", func(c *firewall.Config) { c.Bridge = "sixteen-letters1" }, "1 to 15 bytes"},
		{"zero own subnet", func(c *firewall.Config) { c.Own = []netip.Prefix{{}} }, "pod subnet"},
		{"host bits", func(c *firewall.Config) { c.Network = prefixes("10.244.1.7/24") }, "write 10.244.1.0/24"},
		{"zero exemption", func(c *firewall.Config) { c.NoMasqueradeTo = []netip.Prefix{{}} }, "noMasqueradeTo"},
		{"mapped exemption", func(c *firewall.Config) { c.NoMasqueradeTo = prefixes("::ffff:192.0.2.0/120") }, "noMasqueradeTo"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := testConfig()
			tc.spoil(&c)
			_, err := firewall.Desired(c)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestTableName(t *testing.T) {
	for n, want := range map[network.Name]string{network.Default: "overlay-cni", "blue": "overlay-cni-blue"} {
		if got := firewall.TableName(n); got != want {
			t.Errorf("network %s has table %s, want %s", n, got, want)
		}
	}
}
