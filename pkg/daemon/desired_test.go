package daemon

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

func families() []familyCase {
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
func (f familyCase) input() input {
	nodes := []registry.Node{f.node(1), f.node(2), f.node(3)}
	return input{
		config: config.Config{
			NodeName: "host-1", Bridge: "cni0", Masquerade: true,
			VXLAN: tunnel.Config{Device: "overlay0", VNI: 1, Port: 4789},
		},
		nodes: nodes, own: nodes[0],
		underlay: underlay.Underlay{Name: "eth0", Index: 2, MTU: 1500, Address: netip.MustParseAddr(f.underlay)},
	}
}

func equateNet() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}) }

func TestDesire(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			in := f.input()
			got, err := new(wishes).desire(in)
			if err != nil {
				t.Fatal(err)
			}
			publish := nodestate.State{Node: "host-1", Subnets: in.own.Subnets, MTU: f.mtu, Bridge: "cni0", Device: "overlay0"}
			if diff := cmp.Diff(f.forwards, got.bridge.Want().Forwards); diff != "" {
				t.Errorf("forwarding: -want +got\n%s", diff)
			}
			if diff := cmp.Diff(publish, got.publish, equateNet()); diff != "" {
				t.Errorf("published: -want +got\n%s", diff)
			}
			spec := bridge.Spec{Name: "cni0", MTU: f.mtu, Gateways: prefixes(f.gateways)}
			if diff := cmp.Diff(spec, got.bridge, equateNet()); diff != "" {
				t.Errorf("bridge: -want +got\n%s", diff)
			}
			routers := []string{"cni0", "overlay0"}
			if !strings.Contains(f.gateways, "10.244.") {
				routers = nil // IPv6 has no such switches
			}
			if diff := cmp.Diff(routers, got.routers); diff != "" {
				t.Errorf("routers: -want +got\n%s", diff)
			}
			if d := got.vxlan.Device; d.Name != "overlay0" || d.MTU != f.mtu || d.Tunnel.Local != in.underlay.Address || d.Claimed {
				t.Errorf("the tunnel is %+v", d)
			}
			if len(got.vxlan.Forwards) != 2 || len(got.vxlan.Routes) != 2*len(in.own.Subnets) {
				t.Errorf("for two peers there are the forwards %v and routes %v", got.vxlan.Forwards, got.vxlan.Routes)
			}
			if !got.rules.table.Present || len(got.rules.table.Sets) == 0 {
				t.Errorf("the firewall is %+v", got.rules.table)
			}
		})
	}
}

// What the configuration says arrives where it belongs.
func TestDesireFollowsTheConfiguration(t *testing.T) {
	for _, f := range families() {
		for _, tt := range []struct {
			name   string
			change func(*input)
			check  func(desired) bool
		}{
			{"MTU", func(in *input) { in.config.MTU = 1300 }, func(d desired) bool {
				return d.publish.MTU == 1300 && d.bridge.MTU == 1300 && d.vxlan.Device.MTU == 1300
			}},
			{"bridge", func(in *input) { in.config.Bridge = "br7" }, func(d desired) bool {
				return d.publish.Bridge == "br7" && d.bridge.Name == "br7" && strings.Contains(fmt.Sprint(d.rules.table), "br7") &&
					!strings.Contains(fmt.Sprint(d.rules.table), "cni0")
			}},
			{"device", func(in *input) { in.config.VXLAN.Device = "tun7" }, func(d desired) bool {
				return d.publish.Device == "tun7" && d.vxlan.Device.Name == "tun7"
			}},
			{"VNI and port", func(in *input) { in.config.VXLAN.VNI, in.config.VXLAN.Port = 7, 8472 }, func(d desired) bool {
				return d.vxlan.Device.Tunnel.VNI == 7 && d.vxlan.Device.Tunnel.Port == 8472
			}},
			{"no masquerading", func(in *input) { in.config.Masquerade = false }, func(d desired) bool {
				return !strings.Contains(fmt.Sprint(d.rules.table), "masquerade")
			}},
			{"exempt destinations", func(in *input) { in.config.NoMasqueradeTo = prefixes("198.51.100.0/24 2001:db8::/32") }, func(d desired) bool {
				text := fmt.Sprint(d.rules.table)
				return strings.Contains(text, "198.51.100.0") && strings.Contains(text, "2001:db8::")
			}},
			{"claimed", func(in *input) { in.claimed = true }, func(d desired) bool { return d.vxlan.Device.Claimed }},
			{"peers gone", func(in *input) { in.nodes = in.nodes[:1] }, func(d desired) bool {
				return len(d.vxlan.Routes)+len(d.vxlan.Neighbors)+len(d.vxlan.Forwards) == 0 && d.publish.Node == "host-1"
			}},
		} {
			t.Run(f.name+"/"+tt.name, func(t *testing.T) {
				in := f.input()
				tt.change(&in)
				if got, err := new(wishes).desire(in); err != nil || !tt.check(got) {
					t.Errorf("%v: %+v", err, got)
				}
			})
		}
	}
}

// A peer that can't be reached is told of, and costs the others nothing; what
// this host itself lacks makes a state of nothing.
func TestDesireOfWhatCantBe(t *testing.T) {
	for _, f := range families() {
		for _, tt := range []struct {
			name   string
			change func(*input)
			want   string
			peers  int // that are left; -1: no state at all
		}{
			{"a peer without an address", func(in *input) { in.nodes[1].Addresses = nil }, `peer "host-2" is left out`, 1},
			{"a peer with this host's address", func(in *input) { in.nodes[1].Addresses = []netip.Addr{in.underlay.Address} }, "is this host's own", 1},
			{"a peer without a subnet", func(in *input) { in.nodes[1].Subnets = nil }, "", 1},
			{"no subnet", func(in *input) { in.own.Subnets = nil }, `node "host-1" has no pod subnet yet`, -1},
			{"too large an MTU", func(in *input) { in.config.MTU = 1451 }, "mtu 1451 is too large for underlay eth0", -1},
		} {
			t.Run(f.name+"/"+tt.name, func(t *testing.T) {
				in := f.input()
				in.nodes = slices.Clone(in.nodes)
				tt.change(&in)
				got, err := new(wishes).desire(in)
				if (err != nil) != (tt.want != "") || !strings.Contains(fmt.Sprint(err), tt.want) {
					t.Errorf("got %v", err)
				}
				if tt.peers < 0 {
					if got.publish.Node != "" || got.vxlan.Device.Name != "" || got.rules.table.Present {
						t.Errorf("got %+v", got)
					}
					return
				}
				if len(got.vxlan.Forwards) != tt.peers || got.publish.Node != "host-1" {
					t.Errorf("got %+v", got)
				}
			})
		}
	}
}

func TestOwnNode(t *testing.T) {
	var nodes []registry.Node
	for i := range 12 {
		nodes = append(nodes, families()[0].node(i+1))
	}
	if got, err := ownNode("host-7", nodes); err != nil || got.Name != "host-7" {
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
		_, err := ownNode("nobody", tt.nodes)
		if !errors.Is(err, errNotListed) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v", err)
		}
	}
}
