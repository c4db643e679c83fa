package firewall_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

// show writes a state much as nft lists a table.
func show(s firewall.State) string {
	var b strings.Builder
	for _, set := range s.Sets {
		b.WriteString("set " + set.Name + " " + set.Type + " " + set.Flags + ":")
		for _, r := range s.Elements[set.Name].Ranges {
			b.WriteString(" " + r.String())
		}
		b.WriteString("\n")
	}
	for _, c := range s.Chains {
		b.WriteString("chain " + c.Name + " " + c.Hook.Type + " " + c.Hook.Point + " " + c.Hook.Policy + "\n")
		for _, r := range c.Rules {
			b.WriteString("  ")
			for _, step := range r.Steps {
				b.WriteString(step.String() + "; ")
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

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
	}
}

func desired(t testing.TB, c firewall.Config) firewall.State {
	t.Helper()
	s, err := firewall.Desired(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const redirectRules = `chain output filter output accept
  load meta nfproto; equal "\x02"; load meta l4proto; equal "\x01"; load icmp type; equal "\x05"; load meta oifname; equal "cni0"; drop; 
  load meta nfproto; equal "\n"; load meta l4proto; equal ":"; load icmp type; equal "\x89"; load meta oifname; equal "cni0"; drop; 
`

const masqueradeRules = `chain postrouting nat postrouting accept
  load meta nfproto; equal "\x02"; load ip saddr; in @own4; load ip daddr; not in @network4; load ip daddr; not in @exempt4; load meta oifname; differ "cni0"; masquerade fully-random; 
  load meta nfproto; equal "\n"; load ip6 saddr; in @own6; load ip6 daddr; not in @network6; load ip6 daddr; not in @exempt6; load meta oifname; differ "cni0"; masquerade fully-random; 
`

func TestDesired(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config firewall.Config
		want   string
	}{
		{"dual stack", testConfig(), `
set exempt4 ipv4_addr interval: 192.0.2.0-192.0.2.255 224.0.0.0-239.255.255.255
set exempt6 ipv6_addr interval: 2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
set network4 ipv4_addr interval: 10.244.1.0-10.244.2.255 10.244.9.0-10.244.9.255
set network6 ipv6_addr interval: fd00:1::-fd00:1::ffff:ffff:ffff:ffff fd00:9::-fd00:9::ffff:ffff:ffff:ffff
set own4 ipv4_addr interval: 10.244.1.0-10.244.1.255
set own6 ipv6_addr interval: fd00:1::-fd00:1::ffff:ffff:ffff:ffff
` + redirectRules + masqueradeRules},
		{"masquerade off leaves no nat chain", firewall.Config{
			Own: prefixes("10.244.1.0/24"), Bridge: "cni0",
		}, "\n" + redirectRules},
		{"own subnets belong to the network", firewall.Config{
			Own: prefixes("10.244.1.0/24"), Masquerade: true, Bridge: "cni0",
		}, `
set exempt4 ipv4_addr interval: 224.0.0.0-239.255.255.255
set exempt6 ipv6_addr interval: ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
set network4 ipv4_addr interval: 10.244.1.0-10.244.1.255
set network6 ipv6_addr interval:
set own4 ipv4_addr interval: 10.244.1.0-10.244.1.255
set own6 ipv6_addr interval:
` + redirectRules + masqueradeRules},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, "\n"+show(desired(t, tc.config))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDesiredRefuses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(*firewall.Config)
		want  string
	}{
		{"no bridge", func(c *firewall.Config) { c.Bridge = "" }, "bridge name"},
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

func TestMerge(t *testing.T) {
	for _, tc := range []struct {
		name, v4, v6 string
		want4, want6 string
	}{
		{"none", "", "", "", ""},
		{"one", "10.0.1.0/24", "fd00::/64", "10.0.1.0-10.0.1.255", "fd00::-fd00::ffff:ffff:ffff:ffff"},
		{"single addresses", "10.0.0.1/32 10.0.0.3/32", "fd00::1/128 fd00::3/128",
			"10.0.0.1 10.0.0.3", "fd00::1 fd00::3"},
		{"adjacent in any order", "10.0.2.0/24 10.0.1.0/24", "fd00:0:0:2::/64 fd00:0:0:1::/64",
			"10.0.1.0-10.0.2.255", "fd00:0:0:1::-fd00::2:ffff:ffff:ffff:ffff"},
		{"gap of one", "10.0.0.0/32 10.0.0.2/32", "fd00::/128 fd00::2/128", "10.0.0.0 10.0.0.2", "fd00:: fd00::2"},
		{"nested, the inner one ends first", "10.0.0.0/8 10.1.0.0/16", "fd00::/16 fd00:1::/32",
			"10.0.0.0-10.255.255.255", "fd00::-fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"same twice", "10.0.0.0/24 10.0.0.0/24", "fd00::/120 fd00::/120", "10.0.0.0-10.0.0.255", "fd00::-fd00::ff"},
		{"up to the highest address", "255.255.255.255/32 255.255.255.0/24", "ff00::/8 ffff::/16",
			"255.255.255.0-255.255.255.255", "ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"everything", "0.0.0.0/0 10.0.0.0/8", "::/0 fd00::/8",
			"0.0.0.0-255.255.255.255", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		for _, family := range []struct{ name, in, want string }{{"v4", tc.v4, tc.want4}, {"v6", tc.v6, tc.want6}} {
			t.Run(tc.name+" "+family.name, func(t *testing.T) {
				var got []string
				for _, r := range firewall.Merge(prefixes(strings.Fields(family.in)...)) {
					got = append(got, r.String())
				}
				if strings.Join(got, " ") != family.want {
					t.Errorf("got %q, want %q", got, family.want)
				}
			})
		}
	}
}

func TestPlan(t *testing.T) {
	alter := func(f func(*firewall.State)) firewall.State {
		s := desired(t, testConfig())
		f(&s)
		return s
	}
	want := alter(func(*firewall.State) {})
	for _, tc := range []struct {
		name       string
		want, have firewall.State
		ops        []string
	}{
		{"nothing to do", want, want, nil},
		{"absent and unwanted", firewall.State{}, firewall.State{}, nil},
		{"present and unwanted", firewall.State{}, want, []string{"table inet overlay-cni removed"}},
		{"missing", want, firewall.State{}, []string{"table inet overlay-cni rebuilt: it was missing"}},
		{"dormant", want, alter(func(s *firewall.State) { s.Flags = 1 }),
			[]string{"table inet overlay-cni rebuilt: flags 0x1 instead of 0x0"}},
		{"rule missing", want, alter(func(s *firewall.State) { s.Chains[0].Rules = s.Chains[0].Rules[1:] }),
			[]string{"table inet overlay-cni rebuilt: chain output has 1 rules instead of 2"}},
		{"policy", want, alter(func(s *firewall.State) { s.Chains[0].Hook.Policy = "drop" }),
			[]string{"table inet overlay-cni rebuilt: chain output has hook {filter output 0 drop} instead of {filter output 0 accept}"}},
		{"chain missing, foreign set", want, alter(func(s *firewall.State) {
			s.Chains = s.Chains[1:]
			s.Sets = append(s.Sets, firewall.Set{Name: "x"})
		}), []string{"table inet overlay-cni rebuilt: set x does not belong there; chain output was missing"}},
		{"elements", want, alter(func(s *firewall.State) {
			s.Elements["own4"] = firewall.Elements{Ranges: firewall.Merge(prefixes("10.7.0.0/16"))}
			s.Elements["own6"] = firewall.Elements{}
		}), []string{
			"set own4: added 10.244.1.0-10.244.1.255, removed 10.7.0.0-10.7.255.255",
			"set own6: added fd00:1::-fd00:1::ffff:ffff:ffff:ffff",
		}},
		{"stray end", want, alter(func(s *firewall.State) {
			s.Elements["own4"] = firewall.Elements{Ranges: s.Elements["own4"].Ranges, Stray: 1}
		}), []string{"set own4: refilled with 10.244.1.0-10.244.1.255, because it held incomplete ranges"}},
		{"a rebuild says nothing about elements", want, alter(func(s *firewall.State) {
			s.Flags = 1
			s.Elements = nil
		}), []string{"table inet overlay-cni rebuilt: flags 0x1 instead of 0x0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, op := range firewall.Plan(tc.want, tc.have) {
				got = append(got, op.String())
			}
			if diff := cmp.Diff(tc.ops, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// sameState compares states; empty and missing lists are the same.
func sameState(want, got firewall.State) string {
	return cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}))
}
