package underlay

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/config"
)

// has is a host in which interfaces have the addresses, such as "lo 192.168.77.1".
// Options of an interface stand before its name: ! down, ~ without a carrier, and the
// kind with a colon.
func has(t *testing.T, routes string, links ...string) Network {
	t.Helper()
	var n Network
	for i, text := range links {
		words := strings.Fields(text)
		l := Link{Index: i + 1, MTU: 1500, Up: true, Running: true, Addrs: addrs(strings.Join(words[1:], " "))}
		name := words[0]
		if rest, ok := strings.CutPrefix(name, "!"); ok {
			l.Up, l.Running, name = false, false, rest
		}
		if rest, ok := strings.CutPrefix(name, "~"); ok {
			l.Running, name = false, rest
		}
		if kind, rest, ok := strings.Cut(name, ":"); ok {
			l.Kind, name = kind, rest
		}
		if port, master, ok := strings.Cut(name, "@"); ok {
			name = port
			m, ok := n.find(func(l Link) bool { return l.Name == master })
			if !ok {
				t.Fatalf("no %s before %s", master, text)
			}
			l.Master = m.Index
		}
		l.Name, l.Loopback = name, name == "lo"
		n.Links = append(n.Links, l)
	}
	for name := range strings.FieldsSeq(routes) {
		l, ok := n.find(func(l Link) bool { return l.Name == name })
		if !ok {
			t.Fatalf("no %s for the default route", name)
		}
		for _, f := range family.All() {
			n.Defaults = append(n.Defaults, DefaultRoute{Family: f, Index: l.Index, Metric: uint32(len(n.Defaults))})
		}
	}
	return n
}

// addressCases are one host's addresses in each family: its own, another one of its, and
// one of the other family.
var addressCases = []struct{ name, own, second, other string }{
	{"IPv4", "192.168.77.1", "192.168.88.1", "fd77::1"},
	{"IPv6", "fd77::1", "fd88::1", "192.168.77.1"},
}

// In the cases A is the host's address in the registry, B another one of the family,
// and C one of the other family, which the registry has, too.
func TestBestEvidence(t *testing.T) {
	for _, tt := range []struct {
		name   string
		kept   string
		routes string
		links  []string
		want   string // interface and address, or a part of the error
	}{
		{name: "also on lo", links: []string{"lo A", "eth0 A"}, want: "eth0 A"},
		{name: "also on kube-ipvs0", links: []string{"!dummy:kube-ipvs0 A", "eth0 A"}, want: "eth0 A"},
		{name: "also on a dummy that is up", links: []string{"dummy:nodelocal A", "eth0 A"}, want: "eth0 A"},
		{name: "also on a bridge of containers", links: []string{"bridge:docker0 A", "veth:v1@docker0", "eth0 A"}, want: "eth0 A"},
		{name: "also on a bridge without ports", links: []string{"bridge:docker0 A", "eth0 A"}, want: "eth0 A"},
		{name: "also on a port of a bridge", links: []string{"bridge:br0 A", "eth0@br0 A"}, want: "br0 A"},
		{name: "also on a port of a bond", links: []string{"bond:bond0 A", "eth0@bond0 A"}, want: "bond0 A"},
		{name: "on a port of a VRF, and the VRF", links: []string{"vrf:red A", "eth0@red A"}, want: "eth0 A"},
		{name: "also on one that is down", links: []string{"!eth1 A", "eth0 A"}, want: "eth0 A"},
		{name: "also on one without a carrier", links: []string{"~eth1 A", "eth0 A"}, want: "eth0 A"},
		{name: "also on one of ours", links: []string{"overlay0 A", "eth0 A"}, want: "eth0 A"},
		{name: "on two, of which one carries the default route", routes: "eth0", links: []string{"eth1 A", "eth0 A"}, want: "eth0 A"},
		{name: "on two alike", links: []string{"eth1 A", "eth0 A"}, want: "eth1 A"},
		{name: "on two alike, of which one carries the tunnel", kept: "eth0 A", links: []string{"eth1 A", "eth0 A"}, want: "eth0 A"},
		{name: "the route moves to the other", kept: "eth0 A", routes: "eth1", links: []string{"eth1 A", "eth0 A"}, want: "eth0 A"},
		{name: "the carrier goes for a moment", kept: "eth0 A", links: []string{"eth1 A", "~eth0 A"}, want: "eth0 A"},
		{name: "a better one than the kept", kept: "dummy0 A", links: []string{"dummy:dummy0 A", "eth0 A"}, want: "eth0 A"},

		{name: "on lo alone, as routers have it", routes: "eth0", links: []string{"lo A", "eth0 B"}, want: "eth0 A"},
		{name: "on a dummy alone, kept", kept: "eth1 A", routes: "eth0", links: []string{"dummy:d A", "eth0 B", "eth1 C"}, want: "eth1 A"},
		{name: "on a dummy alone, without a way out", links: []string{"dummy:d A"}, want: "d A"},
		{name: "on lo alone, without a way out", links: []string{"lo A", "eth0 B"}, want: `interface "lo" is a loopback, which reaches no other host`},
		{name: "on kube-ipvs0 alone, as eth0 is made anew", kept: "eth0 A", links: []string{"!dummy:kube-ipvs0 A"},
			want: `interface "eth0", which carried the tunnel and had A, the registry's address of this host, is gone: bring it back, or correct the registry; this host has kube-ipvs0 A (down)`},
		{name: "on kube-ipvs0 alone, as eth0 has no address yet", kept: "eth0 A", links: []string{"!dummy:kube-ipvs0 A", "eth0"}, want: "eth0 A"},
		{name: "on docker0 alone, as eth0 has lost it", kept: "eth0 A", links: []string{"bridge:docker0 A", "eth0"},
			want: `interface "eth0", which carries the tunnel, has lost A`},
		{name: "on one that is down alone, as eth0 is made anew", kept: "eth0 A", links: []string{"!eth1 A"}, want: `interface "eth0", which carried the tunnel and had A`},
		{name: "on docker0 alone", links: []string{"bridge:docker0 A"}, want: "docker0 A"},
		{name: "eth0 goes into a bridge", kept: "eth0 A", links: []string{"bridge:br0 A", "eth0@br0"}, want: "br0 A"},

		{name: "lost for a moment, with the other family", kept: "eth0 A C", routes: "eth0", links: []string{"eth0 C"}, want: `interface "eth0", which carries the tunnel, has lost A, the registry's address of this host: add the address again`},
		{name: "lost for a moment, with another address", kept: "eth0 A C", routes: "eth0", links: []string{"eth0 B C"}, want: "has lost A"},
		{name: "lost for a moment, with another interface", kept: "eth0 A C", routes: "eth1", links: []string{"eth0 C", "eth1 B"}, want: "has lost A"},
		{name: "lost as the interface went down", kept: "eth0 A C", links: []string{"!eth0"}, want: `interface "eth0" is down: set it up`},
		{name: "never there, with the other family", routes: "eth0", links: []string{"eth0 C"}, want: "has no global"},
		{name: "never there, behind NAT", routes: "eth0", links: []string{"eth0 B C"}, want: "eth0 B"},
		{name: "moved to another interface", kept: "eth0 A C", routes: "eth0", links: []string{"eth0 C", "eth1 A"}, want: "eth1 A"},

		{name: "behind NAT, another default route comes", kept: "eth0 B", routes: "wg0 eth0", links: []string{"wg0 D", "eth0 B"}, want: "eth0 B"},
		{name: "behind NAT, the default route goes", kept: "eth0 B", links: []string{"eth1 D", "eth0 B"}, want: "eth0 B"},
		{name: "behind NAT, the default route moves", kept: "eth0 B", routes: "eth1", links: []string{"eth1 D", "eth0 B"}, want: "eth1 D"},
		{name: "behind NAT, a newer address comes first", kept: "eth0 B", routes: "eth0", links: []string{"eth0 D B"}, want: "eth0 B"},
		{name: "behind NAT, the address goes", kept: "eth0 B", routes: "eth0", links: []string{"eth0 D"}, want: "eth0 D"},
	} {
		for _, a := range addressCases {
			t.Run(tt.name+"/"+a.name, func(t *testing.T) {
				third := map[string]string{"IPv4": "192.168.99.1", "IPv6": "fd99::1"}[a.name]
				fill := func(text string) string {
					return strings.NewReplacer(" A", " "+a.own, " B", " "+a.second, " C", " "+a.other, " D", " "+third).Replace(text)
				}
				var links []string
				for _, l := range tt.links {
					links = append(links, fill(l))
				}
				spec := Spec{NodeAddrs: addrs(a.own + " " + a.other), Ours: []string{"overlay0"}, Kept: ParseKept(fill(tt.kept))}
				u, err := Choose(spec, has(t, tt.routes, links...))
				got := u.Name + " " + u.Address.String()
				if err != nil {
					got = err.Error()
				}
				if want := fill(tt.want); got != want && (err == nil || !strings.Contains(got, want)) {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			})
		}
	}
}

// A host that enters itself in the registry keeps its tunnel's family and addresses.
func TestKeptOfAHostThatAnnouncesItself(t *testing.T) {
	for _, tt := range []struct {
		name, kept string
		family     family.Family
		link       string
		want       string
	}{
		{name: "nothing yet", link: "eth0 192.168.77.1 fd77::1", want: "[192.168.77.1 fd77::1]"},
		{name: "IPv6 was chosen", kept: "eth0 fd77::1 192.168.77.1", link: "eth0 192.168.77.1 fd77::1", want: "[fd77::1 192.168.77.1]"},
		{name: "newer addresses", kept: "eth0 192.168.77.1 fd77::1", link: "eth0 192.168.88.1 192.168.77.1 fd88::1 fd77::1", want: "[192.168.77.1 fd77::1]"},
		{name: "IPv4 is away", kept: "eth0 192.168.77.1 fd77::1", link: "eth0 fd77::1", want: `interface "eth0" has no global IPv4 address: add one, or set underlay to another interface, or underlayFamily, on all hosts, if the tunnel need not run over IPv4`},
		{name: "IPv4 is away, IPv6 is wanted", kept: "eth0 192.168.77.1 fd77::1", family: family.IPv6, link: "eth0 fd77::1", want: "[fd77::1]"},
		{name: "IPv6 is away", kept: "eth0 fd77::1 192.168.77.1", link: "eth0 192.168.77.1", want: "has no global IPv6 address"},
		{name: "renumbered", kept: "eth0 192.168.77.1", link: "eth0 192.168.77.50 fd77::1", want: "[192.168.77.50 fd77::1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, want := range []config.Underlay{{}, {Interface: "eth0"}} {
				u, err := Choose(Spec{Want: want, Family: tt.family, Kept: ParseKept(tt.kept)}, has(t, "eth0", tt.link))
				got := fmt.Sprint(u.Addresses)
				if err != nil {
					got = err.Error()
				}
				if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) {
					t.Errorf("%+v: got  %s\nwant %s", want, got, tt.want)
				}
			}
		})
	}
}

// An address that is about to go is no reason to stay.
func TestKeptGivesUpLeavingAddresses(t *testing.T) {
	n := has(t, "eth0", "eth0 fd88::1 fd77::1")
	n.Links[0].Leaving, n.Links[0].Transient = addrs("fd77::1"), addrs("fd77::1")
	if u, err := Choose(Spec{Kept: ParseKept("eth0 fd77::1")}, n); err != nil || u.Address != netip.MustParseAddr("fd88::1") {
		t.Errorf("got %+v, %v", u, err)
	}
}

func TestKeptAsText(t *testing.T) {
	for _, text := range []string{"", "eth0 192.168.77.1", "eth0 fd77::1 192.168.77.1"} {
		if got := ParseKept(text).String(); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, text := range []string{"eth0", "eth0 192.168.77", "  "} {
		if got := ParseKept(text); got.String() != "" {
			t.Errorf("%q gives %+v", text, got)
		}
	}
}
