package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// family is the column of the tables.
type familyCase struct {
	name     string
	subnets  string // of a node, with its number to fill in
	underlay string // this host's address, on which the MTU depends
	mtu      int
	gateways string
	forwards map[family.Family]bool // what the host is to forward
}

func familyCases() []familyCase {
	only4, only6 := map[family.Family]bool{family.IPv4: true}, map[family.Family]bool{family.IPv6: true}
	both := map[family.Family]bool{family.IPv4: true, family.IPv6: true}
	return []familyCase{
		{"IPv4", "10.244.%d.0/24", "192.168.77.1", 1450, "10.244.1.1/24", only4},
		{"IPv6", "fd44:0:0:%d::/64", "192.168.77.1", 1450, "fd44:0:0:1::1/64", only6},
		{"dual stack", "10.244.%d.0/24 fd44:0:0:%d::/64", "192.168.77.1", 1450, "10.244.1.1/24 fd44:0:0:1::1/64", both},
		{"IPv6 first", "fd44:0:0:%d::/64 10.244.%d.0/24", "192.168.77.1", 1450, "fd44:0:0:1::1/64 10.244.1.1/24", both},
		{"IPv4 over IPv6", "10.244.%d.0/24", "fd77::1", 1430, "10.244.1.1/24", only4},
		{"two subnets", "10.244.%d.0/25 10.244.%d.128/25", "192.168.77.1", 1450, "10.244.1.1/25 10.244.1.129/25", only4},
	}
}

func (f familyCase) node(number int) registry.Node {
	n := registry.Node{
		Name:      fmt.Sprint("host-", number),
		Addresses: []netip.Addr{netip.MustParseAddr(fmt.Sprint("192.168.77.", number)), netip.MustParseAddr(fmt.Sprint("fd77::", number))},
	}
	n.Subnets = prefixes(strings.ReplaceAll(f.subnets, "%d", fmt.Sprint(number)))
	return n
}

func prefixes(text string) []netip.Prefix {
	var ps []netip.Prefix
	for field := range strings.FieldsSeq(text) {
		ps = append(ps, netip.MustParsePrefix(field))
	}
	return ps
}

// input is of host-1 among three.
func (f familyCase) input() Input {
	nodes := []registry.Node{f.node(1), f.node(2), f.node(3)}
	return Input{
		Config: config.Config{
			AntiSpoofing: true,
			NodeName:     "host-1", Bridge: "cni0", Masquerade: true, UnderlayFamily: family.Of(netip.MustParseAddr(f.underlay)),
			VXLAN: tunnel.Config{Device: "overlay0", VNI: 1, Port: 4789},
		},
		Nodes: nodes, Own: nodes[0],
		Underlay: underlay.Underlay{Name: "eth0", Index: 2, MTU: 1500, Address: netip.MustParseAddr(f.underlay), Addresses: []netip.Addr{netip.MustParseAddr(f.underlay)}},
	}
}

func equateNet() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}) }

func TestCompute(t *testing.T) {
	for _, f := range familyCases() {
		t.Run(f.name, func(t *testing.T) {
			in := f.input()
			got, err := Compute(in)
			if err != nil {
				t.Fatal(err)
			}
			publish := nodestate.State{Node: "host-1", Subnets: in.Own.Subnets, MTU: f.mtu, Bridge: "cni0", Device: "overlay0", Underlay: "eth0 " + f.underlay}
			if diff := cmp.Diff(f.forwards, got.Bridge.Want().Forwards); diff != "" {
				t.Errorf("forwarding: -want +got\n%s", diff)
			}
			if diff := cmp.Diff(publish, got.Published, equateNet()); diff != "" {
				t.Errorf("published: -want +got\n%s", diff)
			}
			spec := bridge.Spec{Name: "cni0", MTU: f.mtu, Gateways: prefixes(f.gateways)}
			if diff := cmp.Diff(spec, got.Bridge, equateNet()); diff != "" {
				t.Errorf("bridge: -want +got\n%s", diff)
			}
			routers := []string{"cni0", "overlay0"}
			if !strings.Contains(f.gateways, "10.244.") {
				routers = nil // IPv6 has no such switches
			}
			if diff := cmp.Diff(routers, got.Sysctls.Routers); diff != "" {
				t.Errorf("routers: -want +got\n%s", diff)
			}
			if d := got.Tunnel.Device; d.Name != "overlay0" || d.MTU != f.mtu || d.Tunnel.Local != in.Underlay.Address || d.Claimed {
				t.Errorf("the tunnel is %+v", d)
			}
			if len(got.Tunnel.FDB) != 2 || len(got.Tunnel.Routes) != 2*len(in.Own.Subnets) {
				t.Errorf("for two peers there are the FDB entries %v and routes %v", got.Tunnel.FDB, got.Tunnel.Routes)
			}
			if got.Firewall == nil || len(got.Firewall.Sets) == 0 {
				t.Errorf("the firewall is %+v", got.Firewall)
			}
		})
	}
}

// Each setting of the configuration is in the desired state.
func TestComputeFollowsTheConfiguration(t *testing.T) {
	for _, f := range familyCases() {
		for _, tt := range []struct {
			name   string
			change func(*Input)
			check  func(Desired) bool
		}{
			{"MTU", func(in *Input) { in.Config.MTU = 1300 }, func(d Desired) bool {
				return d.Published.MTU == 1300 && d.Bridge.MTU == 1300 && d.Tunnel.Device.MTU == 1300
			}},
			{"bridge", func(in *Input) { in.Config.Bridge = "br7" }, func(d Desired) bool {
				return d.Published.Bridge == "br7" && d.Bridge.Name == "br7" && strings.Contains(raw(d.Firewall), "br7") &&
					!strings.Contains(raw(d.Firewall), "cni0")
			}},
			{"device", func(in *Input) { in.Config.VXLAN.Device = "tun7" }, func(d Desired) bool {
				return d.Published.Device == "tun7" && d.Tunnel.Device.Name == "tun7"
			}},
			{"VNI and port", func(in *Input) { in.Config.VXLAN.VNI, in.Config.VXLAN.Port = 7, 8472 }, func(d Desired) bool {
				return d.Tunnel.Device.Tunnel.VNI == 7 && d.Tunnel.Device.Tunnel.Port == 8472
			}},
			{"no masquerading", func(in *Input) { in.Config.Masquerade = false }, func(d Desired) bool {
				return !slices.ContainsFunc(d.Firewall.Chains, func(c nft.Chain) bool { return c.Hook.Type == "nat" })
			}},
			{"exempt destinations", func(in *Input) { in.Config.NoMasqueradeTo = prefixes("198.51.100.0/24 2001:db8::/32") }, func(d Desired) bool {
				return strings.Contains(raw(d.Firewall), string([]byte{198, 51, 100, 0})) && strings.Contains(raw(d.Firewall), "\x20\x01\x0d\xb8")
			}},
			{"fragments", func(in *Input) { in.Config.VXLAN.DF = tunnel.DFUnset }, func(d Desired) bool {
				return d.Sysctls.ForwardByPMTU == (d.Tunnel.Device.Tunnel.Local.Is6() && d.Sysctls.Routers != nil)
			}},
			{"no fragments", func(in *Input) {
				in.Config.VXLAN.DF, in.Underlay.Address = tunnel.DFInherit, netip.MustParseAddr("192.168.77.1")
			},
				func(d Desired) bool { return d.Sysctls.ForwardByPMTU == (d.Sysctls.Routers != nil) }},
			{"peers may send", func(in *Input) {}, func(d Desired) bool {
				return strings.Contains(raw(d.Firewall), "\xc0\xa8\x4d\x02") && !strings.Contains(raw(d.Firewall), "\xc0\xa8\x4d\x01")
			}},
			{"any source", func(in *Input) { in.Config.VXLAN.AnySource = true }, func(d Desired) bool {
				return strings.Contains(raw(d.Firewall), "pods send no packets of the tunnel") && !strings.Contains(raw(d.Firewall), "of the registry")
			}},
			{"tracked", func(in *Input) { in.Config.VXLAN.Tracked = true }, func(d Desired) bool {
				return !strings.Contains(raw(d.Firewall), "notrack")
			}},
			{"claimed", func(in *Input) { in.Claimed = true }, func(d Desired) bool { return d.Tunnel.Device.Claimed }},
			{"peers gone", func(in *Input) { in.Nodes = in.Nodes[:1] }, func(d Desired) bool {
				return len(d.Tunnel.Routes)+len(d.Tunnel.Neighbors)+len(d.Tunnel.FDB) == 0 && d.Published.Node == "host-1"
			}},
		} {
			t.Run(f.name+"/"+tt.name, func(t *testing.T) {
				in := f.input()
				tt.change(&in)
				if got, err := Compute(in); err != nil || !tt.check(got) {
					t.Errorf("%v: %+v", err, got)
				}
			})
		}
	}
}

// A peer that can't be reached is in the error and does not affect other peers. If
// this host itself can't be in the network, there is no desired state.
func TestComputeRefuses(t *testing.T) {
	for _, f := range familyCases() {
		for _, tt := range []struct {
			name   string
			change func(*Input)
			want   string
			peers  int // that are left; -1: no state at all
		}{
			{"a peer without an address", func(in *Input) { in.Nodes[1].Addresses = nil }, `peer "host-2" is left out`, 1},
			{"a peer with this host's address", func(in *Input) { in.Nodes[1].Addresses = []netip.Addr{in.Underlay.Address} }, "is this host's own", 1},
			{"a peer without a subnet", func(in *Input) { in.Nodes[1].Subnets = nil }, "", 1},
			{"another address than the tunnel's", func(in *Input) { in.Own.Addresses = []netip.Addr{sibling(in.Underlay.Address)} },
				"so other hosts drop its packets: correct the registry or underlay, or set vxlan.checkSource to false", 2},
			{"another address, of no account", func(in *Input) {
				in.Own.Addresses, in.Config.VXLAN.AnySource = []netip.Addr{sibling(in.Underlay.Address)}, true
			}, "", 2},
			{"another address, alone", func(in *Input) {
				in.Own.Addresses, in.Nodes = []netip.Addr{sibling(in.Underlay.Address)}, in.Nodes[:1]
			}, "so other hosts drop its packets", 0},
			{"another address, translated", func(in *Input) {
				in.Own.Addresses, in.Own.NAT = []netip.Addr{sibling(in.Underlay.Address)}, true
			}, "", 2},
			{"no subnet", func(in *Input) { in.Own.Subnets = nil }, `node "host-1" has no pod subnet yet`, -1},
			{"too large an MTU", func(in *Input) { in.Config.MTU = 1451 }, "mtu 1451 is too large for underlay eth0", -1},
		} {
			t.Run(f.name+"/"+tt.name, func(t *testing.T) {
				in := f.input()
				in.Nodes = slices.Clone(in.Nodes)
				tt.change(&in)
				got, err := Compute(in)
				if unheard := strings.Contains(tt.want, "drop its packets") && tt.peers > 0; unheard != (got.Unheard != nil) {
					t.Errorf("unheard: %v", got.Unheard)
				} else if unheard && err == nil {
					err = got.Unheard
				}
				if (err != nil) != (tt.want != "") || !strings.Contains(fmt.Sprint(err), tt.want) {
					t.Errorf("got %v", err)
				}
				if tt.peers < 0 {
					if got.Published.Node != "" || got.Tunnel.Device.Name != "" || got.Firewall != nil {
						t.Errorf("got %+v", got)
					}
					return
				}
				if len(got.Tunnel.FDB) != tt.peers || got.Published.Node != "host-1" {
					t.Errorf("got %+v", got)
				}
			})
		}
	}
}

// sibling is another address of the family.
func sibling(a netip.Addr) netip.Addr {
	for range 100 {
		a = a.Next()
	}
	return a
}

func TestOwnNode(t *testing.T) {
	var nodes []registry.Node
	for i := range 12 {
		nodes = append(nodes, familyCases()[0].node(i+1))
	}
	if got, err := OwnNode("host-7", nodes); err != nil || got.Name != "host-7" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, tt := range []struct {
		nodes []registry.Node
		want  string
	}{
		{nodes[:2], `node "nobody" is not in the registry, which has ["host-1" "host-2"]: add it there, or set nodeName to one of these`},
		{nodes, `"host-10" "..."]`}, // a line of the log has room for ten
		{nil, `which has []`},
	} {
		_, err := OwnNode("nobody", tt.nodes)
		if !errors.Is(err, ErrNotListed) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v", err)
		}
	}
}

// Others send to an address of the tunnel's family, whichever it is.
func TestLeftOut(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	translated := netip.MustParseAddr("198.51.100.1")
	for name, tt := range map[string]struct {
		known  []netip.Addr
		tunnel netip.Addr
		out    bool
	}{
		"IPv4":                {[]netip.Addr{four}, four, false},
		"IPv6":                {[]netip.Addr{six}, six, false},
		"both":                {[]netip.Addr{four, six}, six, false},
		"IPv4, translated":    {[]netip.Addr{translated}, four, false},
		"the tunnel has IPv6": {[]netip.Addr{four}, six, true},
		"the tunnel has IPv4": {[]netip.Addr{six}, four, true},
	} {
		err := leftOut(registry.Node{Name: "host-a", Addresses: tt.known}, underlay.Underlay{Name: "eth0", Address: tt.tunnel})
		if (err != nil) != tt.out {
			t.Errorf("%s: %v", name, err)
		}
		if tt.out && !strings.Contains(err.Error(), tt.tunnel.String()+" on eth0") {
			t.Errorf("%s: %v does not name the tunnel's address", name, err)
		}
	}
}

// raw is the bytes that a table's rules compare with, and those of its elements.
func raw(t *nft.Table) string {
	var b strings.Builder
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			b.WriteString(r.Comment)
			for _, e := range r.Exprs {
				b.WriteString(e.Name)
				b.Write(e.Data)
			}
		}
	}
	for _, e := range t.Elements {
		b.WriteString(e.Key)
	}
	return b.String()
}
