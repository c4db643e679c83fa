package host

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// withPods are nodes n1, n2 and so on, each with the subnets of these families.
func withPods(families ...string) []registry.Node {
	subnets := map[rune]netip.Prefix{'4': netip.MustParsePrefix("10.244.1.0/24"), '6': netip.MustParsePrefix("fd44:1::/64")}
	var nodes []registry.Node
	for i, f := range families {
		n := registry.Node{Name: fmt.Sprint("n", i+1)}
		for _, r := range f {
			n.Subnets = append(n.Subnets, subnets[r])
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func TestSingleStackNodes(t *testing.T) {
	const notTogether = `, so their pods don't reach each other: give one of the two hosts a subnet of the other family too`
	for _, tt := range []struct {
		name  string
		nodes []registry.Node // the first one is this host
		note  string
		apart string
	}{
		{"IPv4", withPods("4", "4"), "", "<nil>"},
		{"IPv6", withPods("6", "6"), "", "<nil>"},
		{"dual stack", withPods("46", "64"), "", "<nil>"},
		{"one has got no subnet yet", withPods("4", ""), "", "<nil>"},
		{"one of IPv4 among those of both", withPods("46", "4", "46"), "IPv4 only: n2", "<nil>"},
		{"this one is of IPv6 alone", withPods("6", "46"), "IPv6 only: n1", "<nil>"},
		{"nothing in common", withPods("4", "6", "46"), "IPv4 only: n1; IPv6 only: n2",
			`peer "n2" has only IPv6 pod subnets, and this host only IPv4 ones` + notTogether},
		{"many", withPods("46", "4", "4", "4", "4", "4", "4", "4"), "IPv4 only: n2, n3, n4, n5, n6 and 2 more", "<nil>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := singleStack(tt.nodes); got != tt.note {
				t.Errorf("noted %q, want %q", got, tt.note)
			}
			if got := fmt.Sprint(apart(tt.nodes[0], tt.nodes)); got != tt.apart {
				t.Errorf("apart: %s\nwant   %s", got, tt.apart)
			}
		})
	}
}

func TestDisagreeingPeers(t *testing.T) {
	a := netip.MustParseAddr
	four, six := []netip.Addr{a("192.168.77.2"), a("fd77::2")}, []netip.Addr{a("fd77::2"), a("192.168.77.2")}
	for _, tt := range []struct {
		name   string
		tunnel string // this host's
		peer   []netip.Addr
		alter  func(*Input)
		want   string
	}{
		{name: "IPv4 alike", tunnel: "192.168.77.1", peer: four},
		{name: "IPv6 alike", tunnel: "fd77::1", peer: six},
		{name: "IPv4 here", tunnel: "192.168.77.1", peer: six, want: `peer "n2" has its IPv6 address first in the registry, so its tunnel runs over IPv6, while this host's runs over IPv4 (192.168.77.1 on eth0): write the addresses of all nodes in one order, or set underlayFamily on all hosts`},
		{name: "IPv6 here", tunnel: "fd77::1", peer: four, want: `peer "n2" has its IPv4 address first in the registry`},
		{name: "of one address it is left out", tunnel: "fd77::1", peer: four[:1]},
		{name: "the family is set", tunnel: "fd77::1", peer: four, alter: func(in *Input) { in.Config.UnderlayFamily = family.IPv6 }},
		{name: "by an address", tunnel: "fd77::1", peer: four, alter: func(in *Input) { in.Config.Underlay.Address = a("fd77::1") }},
		{name: "the family is set, but the peer tells another", tunnel: "fd77::1", peer: four, want: `peer "n2" has its IPv4 address first`,
			alter: func(in *Input) { in.Config.UnderlayFamily, in.Announced = family.IPv6, true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nodes := withPods("46", "46")
			nodes[1].Addresses = tt.peer
			in := Input{Own: nodes[0], Nodes: nodes, Underlay: underlay.Underlay{Name: "eth0", Address: a(tt.tunnel)}}
			if tt.alter != nil {
				tt.alter(&in)
			}
			err := disagreeing(in)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// An underlay too narrow for IPv6 pods carries those of IPv4.
func TestNarrowUnderlay(t *testing.T) {
	for _, tt := range []struct {
		name, tunnel, pods string
		mtu, set           int
		got                string // MTU and subnets of pods, or the refusal
		named              string
	}{
		{"wide enough over IPv4", "192.168.77.1", "46", 1330, 0, "1280 [10.244.1.0/24 fd44:1::/64]", ""},
		{"wide enough over IPv6", "fd77::1", "46", 1350, 0, "1280 [10.244.1.0/24 fd44:1::/64]", ""},
		{"too narrow over IPv4", "192.168.77.1", "46", 1329, 0, "1279 [10.244.1.0/24]",
			"this host's pods have IPv4 alone, and its subnets [fd44:1::/64] are left out: IPv6 pods need an MTU of 1280, but underlay eth0, whose MTU is 1329, leaves 1279: raise the MTU of eth0 to 1330 or more"},
		{"too narrow over IPv6, IPv6 first", "fd77::1", "64", 1349, 0, "1279 [10.244.1.0/24]", "raise the MTU of eth0 to 1350 or more"},
		{"too narrow, with a setting that fits", "192.168.77.1", "46", 1300, 1250, "1250 [10.244.1.0/24]", "raise the MTU of eth0 to 1330 or more"},
		{"too narrow, with a setting that doesn't fit", "192.168.77.1", "46", 1300, 1280, "mtu 1280 is too large for underlay eth0, whose MTU of 1300 leaves 1250 to the pods: set mtu to 0 or at most 1250", ""},
		{"IPv4 alone", "192.168.77.1", "4", 1300, 0, "1250 [10.244.1.0/24]", ""},
		{"IPv6 alone", "192.168.77.1", "6", 1300, 0, "IPv6 pods need an MTU of 1280, but underlay eth0, whose MTU is 1300, leaves 1250: raise the MTU of eth0 to 1330 or more", ""},
		{"IPv6 alone, with a setting", "192.168.77.1", "6", 1300, 1280, "raise the MTU of eth0 to 1330 or more", ""},
		{"a setting too small", "192.168.77.1", "46", 1500, 1279, "mtu 1279 is less than the 1280 that IPv6 pods need (fd44:1::/64): set mtu to 0, or from 1280 to 1450", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nodes := withPods(tt.pods)
			at := netip.MustParseAddr(tt.tunnel)
			nodes[0].Addresses = []netip.Addr{at}
			got, err := Compute(Input{
				Config: config.Config{Bridge: "cni0", MTU: tt.set, VXLAN: tunnel.Config{Device: "overlay0", VNI: 1, Port: 4789}},
				Own:    nodes[0], Nodes: nodes,
				Underlay: underlay.Underlay{Name: "eth0", Index: 2, MTU: tt.mtu, Address: at},
			})
			if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
				if tt.named != "" || !strings.Contains(err.Error(), tt.got) {
					t.Errorf("refused: %v\nwant %s", err, tt.got)
				}
				return
			}
			p := got.Published
			if text := fmt.Sprint(p.MTU, p.Subnets); text != tt.got || len(got.Bridge.Gateways) != len(p.Subnets) || len(got.Tunnel.Addresses) != len(p.Subnets) {
				t.Errorf("got %s, want %s; %+v", text, tt.got, got.Bridge)
			}
			if want := subnet.VTEPMAC(nodes[0].Subnets).String(); got.Tunnel.Device.MAC.String() != want {
				t.Errorf("the VTEP has %s, but peers send to %s", got.Tunnel.Device.MAC, want)
			}
			if (err == nil) != (tt.named == "") || err != nil && !strings.Contains(err.Error(), tt.named) {
				t.Errorf("named: %v\nwant %s", err, tt.named)
			}
		})
	}
}
