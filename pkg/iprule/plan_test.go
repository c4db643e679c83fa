package iprule

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

func TestCover(t *testing.T) {
	var many []netip.Prefix // even ones only
	for i := range 100 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(2 * i), 0}), 24))
	}
	for _, tt := range []struct {
		have  []netip.Prefix
		limit int
		want  string
	}{
		{nil, 8, "[]"},
		{prefixes("10.244.1.0/24"), 8, "[10.244.1.0/24]"},
		{prefixes("10.244.1.0/24", "10.244.0.0/24", "10.244.2.0/24", "10.244.3.0/24"), 8, "[10.244.0.0/22]"},
		{prefixes("10.244.1.0/24", "10.244.2.0/24"), 8, "[10.244.1.0/24 10.244.2.0/24]"},
		{prefixes("10.244.1.0/24", "10.244.1.0/25", "10.244.1.0/24"), 8, "[10.244.1.0/24]"},
		{prefixes("10.244.1.0/24", "10.244.2.0/24", "172.16.1.0/24"), 2, "[10.244.0.0/22 172.16.1.0/24]"},
		{prefixes("10.244.1.0/24", "172.16.1.0/24"), 1, "[0.0.0.0/0]"},
		{prefixes("fd44:0:0:1::/64", "fd44:0:0:2::/64", "fd45::/64"), 2, "[fd44::/62 fd45::/64]"},
		{many, 2, "[10.244.0.0/17 10.244.128.0/17]"},
	} {
		if got := cover(tt.have, tt.limit); fmt.Sprint(got) != tt.want {
			t.Errorf("%v in %d: got %v, want %s", tt.have, tt.limit, got, tt.want)
		}
	}
	all := cover(many, maxNetworks)
	for _, p := range many {
		if !slices.ContainsFunc(all, p.Overlaps) {
			t.Errorf("%s is in none of %v", p, all)
		}
	}
}

// parse makes rules of lines such as "100 from 192.168.77.1/32 lookup 7 marked".
func parse(f family.Family, lines string) []rtnl.RuleEntry {
	all := []rtnl.RuleEntry{}
	for line := range strings.SplitSeq(lines, ";") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		r := rtnl.RuleEntry{Rule: rtnl.Rule{Family: f, Action: rtnl.RuleLookup}}
		words := strings.Fields(line)
		_, _ = fmt.Sscan(words[0], &r.Priority)
		for i := 1; i < len(words); i++ {
			next := func() string { i++; return words[i] }
			switch words[i] {
			case "from":
				r.From = netip.MustParsePrefix(next())
			case "to":
				r.To = netip.MustParsePrefix(next())
			case "lookup":
				name := next()
				r.Table = map[string]uint32{"main": unix.RT_TABLE_MAIN, "local": unix.RT_TABLE_LOCAL}[name]
				if r.Table == 0 {
					_, _ = fmt.Sscan(name, &r.Table)
				}
			case "minbits":
				_, _ = fmt.Sscan(next(), &r.MinBits)
			case "marked":
				r.Marked = true
			case "bound":
				r.Bound = true
			case "not":
				r.Inverted = true
			case "iif":
				r.More = true
			case "vrf":
				r.VRF = true
			case "prohibit":
				r.Action = unix.RTN_PROHIBIT
			case "goto":
				r.Action = rtnl.RuleGoto
			case "ours":
				r.Protocol = Protocol
			}
		}
		all = append(all, r)
	}
	return all
}

func TestPlan(t *testing.T) {
	for f, net := range map[family.Family]struct{ pods, other, host string }{
		family.IPv4: {"10.244.0.0/22", "198.51.100.0/24", "192.168.77.1/32"},
		family.IPv6: {"fd44::/62", "2001:db8::/32", "fd77::1/128"},
	} {
		bits := map[family.Family]int{family.IPv4: 24, family.IPv6: 64}[f]
		networks := []network{{netip.MustParsePrefix(net.pods), bits}}
		ours := func(priority int) string {
			return fmt.Sprintf("%d to %s lookup main minbits %d ours", priority, net.pods, bits)
		}
		added := func(priority int) string {
			return fmt.Sprintf("add rule pref %d to %s lookup main suppress_prefixlength %d", priority, net.pods, bits-1)
		}
		deleted := func(priority int) string { return "delete" + strings.TrimPrefix(added(priority), "add") }
		const local, main = "0 lookup local", "32766 lookup main; 32767 lookup 253"
		for _, tt := range []struct{ name, have, want string }{
			{"the kernel's own", local + ";" + main, ""},
			{"a source", local + "; 32765 from " + net.host + " lookup 30400;" + main, added(32764)},
			{"a source, with ours", local + ";" + ours(32764) + "; 32765 from " + net.host + " lookup 30400;" + main, ""},
			{"ours, much earlier", local + ";" + ours(100) + "; 32765 from " + net.host + " lookup 30400;" + main, ""},
			{"ours comes too late", local + "; 50 from " + net.host + " lookup 30400;" + ours(100) + ";" + main, added(49) + " " + deleted(100)},
			{"ours is needed no more", local + ";" + ours(100) + ";" + main, deleted(100)},
			{"ours is altered", local + "; 100 to " + net.pods + " lookup main ours; 101 iif lookup 7;" + main,
				added(100) + " delete rule pref 100 to " + net.pods + " lookup main"},
			{"ours is there twice", local + ";" + ours(99) + ";" + ours(100) + "; 101 iif lookup 7;" + main, deleted(100)},
			{"an interface", local + "; 200 iif lookup 7;" + main, added(199)},
			{"two tables", local + "; 200 iif lookup 7; 300 iif lookup 8;" + main, added(199)},
			{"WireGuard's wg-quick", local + "; 32764 lookup main minbits 1; 32765 not marked lookup 51820;" + main, ""},
			{"WireGuard without the table main", local + "; 32765 not marked lookup 51820;" + main, added(32764)},
			{"tailscale", local + "; 5210 marked lookup main; 5230 marked lookup 253; 5270 lookup 52;" + main, added(5269)},
			{"main without short routes", local + fmt.Sprintf("; 100 lookup main minbits %d; 200 lookup 7;", bits+1) + main, added(199)},
			{"marked packets", local + "; 9 marked lookup 2004;" + main, ""},
			{"sockets bound to an interface", local + "; 9 bound lookup 2004;" + main, ""},
			{"VRFs", local + "; 1000 vrf lookup 7;" + main, ""},
			{"a rule that drops", local + "; 1000 from " + net.host + " prohibit;" + main, ""},
			{"a jump", local + "; 1000 goto;" + main, added(999)},
			{"another destination", local + "; 1000 to " + net.other + " lookup 7;" + main, ""},
			{"some pods", local + "; 1000 to " + strings.Split(net.pods, "/")[0] + fmt.Sprintf("/%d lookup 7;", bits) + main, added(999)},
			{"right after the host's own addresses", local + "; 1 lookup 7;" + main, added(0)},
			{"right after, with ours", local + ";" + ours(0) + "; 1 lookup 7;" + main, ""},
			{"before the host's own addresses", "9 lookup 7; 100 lookup local;" + main, added(100)},
			{"before the host's own addresses, with ours", "9 lookup 7; 100 lookup local;" + ours(100) + ";" + main, ""},
			{"the rule for the table main is gone", local + "; 32767 lookup 253", added(32766)},
		} {
			t.Run(f.String()+"/"+tt.name, func(t *testing.T) {
				var got []string
				for _, o := range plan(f, networks, parse(f, tt.have)) {
					got = append(got, o.String())
				}
				if text := strings.Join(got, " "); text != tt.want {
					t.Errorf("got  %s\nwant %s", text, tt.want)
				}
			})
		}
	}
}

func TestNetworks(t *testing.T) {
	s := State{Own: prefixes("10.244.1.0/24"), Subnets: prefixes("10.244.1.0/24", "10.244.4.0/22", "fd44::/64")}
	want := []network{{netip.MustParsePrefix("10.244.1.0/24"), 22}, {netip.MustParsePrefix("10.244.4.0/22"), 22}}
	if got := s.networks(family.IPv4); !slices.Equal(got, want) {
		t.Error(got)
	}
	if got := s.networks(family.IPv6); got != nil {
		t.Errorf("this host has no IPv6 pods, but rules for %v", got)
	}
}
