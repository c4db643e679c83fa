package vxlan

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

func TestDesiredPeerEntries(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			s := desired(t, f, 1, 2, 3)
			for _, peer := range f.nodes(2, 3) {
				mac := macOf(subnet.VTEPMAC(peer.Subnets))
				for _, p := range peer.Subnets {
					next := p.Addr()
					if s.Routes[p] != (Route{Via: next}) || s.Neighbors[next] != (Neighbor{MAC: mac}) {
						t.Errorf("subnet %s: route %v, neighbour %v", p, s.Routes[p], s.Neighbors[next])
					}
				}
				host := s.FDB[mac].Host
				if host.Is4() != netip.MustParseAddr(f.underlay).Is4() || !strings.HasSuffix(host.String(), peer.Name[5:]) {
					t.Errorf("peer %s is at %s", peer.Name, host)
				}
			}
			n := len(f.node(2).Subnets)
			if len(s.Routes) != 2*n || len(s.Neighbors) != 2*n || len(s.FDB) != 2 || len(s.Addresses) != n {
				t.Errorf("%d routes, %d neighbours, %d FDB entries, %d addresses",
					len(s.Routes), len(s.Neighbors), len(s.FDB), len(s.Addresses))
			}
		})
	}
}

func TestDesiredLeavesOutBadPeers(t *testing.T) {
	four, six := families()[0], families()[1]
	type badPeer struct {
		name string
		f    familyCase
		peer registry.Node
		want string // part of the error; empty: no error, yet left out
	}
	tests := []badPeer{
		{"without an IPv4 address", four, node("bad", "fd77::9", "10.244.9.0/24"), `peer "bad" is left out: it has no IPv4 address`},
		{"without an IPv6 address", six, node("bad", "192.168.77.9", "fd44:0:0:9::/64"), `peer "bad" is left out: it has no IPv6 address`},
		{"without an address", four, node("bad", "", "10.244.9.0/24"), "it has no IPv4 address"},
		{"with our address", four, node("bad", "192.168.77.1", "10.244.9.0/24"), "192.168.77.1 is this host's own"},
		{"with our subnet", four, node("bad", "192.168.77.9", "10.244.1.0/24"), `of "host-1"`},
		{"with our subnet as its second", four, node("bad", "192.168.77.9", "10.200.0.0/24 10.244.1.0/24"), "10.244.1.0/24 is another node's too"},
		{"with a peer's subnet", four, node("bad", "192.168.77.9", "10.244.2.0/24"), `of "host-2"`},
		{"with a peer's subnet as its second", four, node("bad", "192.168.77.9", "10.200.0.0/24 10.244.2.0/24"), "10.244.2.0/24 is another node's too"},
		{"without a subnet yet", four, node("bad", "192.168.77.9", ""), ""},
		{"with subnets of a family that we lack", four, node("bad", "192.168.77.9", "fd44:0:0:9::/64"), ""},
	}
	tests = append(tests,
		badPeer{"at the broadcast address", four, node("bad", "192.168.77.255", "10.244.9.0/24"), "its address 192.168.77.255 is the first or last of the underlay's network 192.168.77.0/24"},
		badPeer{"at the network's address", four, node("bad", "192.168.77.0", "10.244.9.0/24"), "its address 192.168.77.0 is the first or last of the underlay's network 192.168.77.0/24"},
		badPeer{"at the routers' address", six, node("bad", "fd77::", "fd44:0:0:9::/64"), "its address fd77:: is the first or last of the underlay's network fd77::/64"},
	)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(tt.f, 1, 2)
			in.Underlay.Networks = []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24"), netip.MustParsePrefix("fd77::/64")}
			in.Nodes = append(in.Nodes, tt.peer, tt.f.node(3))
			got, err := Desired(in)
			if diff := diffStates(desired(t, tt.f, 2, 3), got); diff != "" {
				t.Errorf("the others are not as without it (-want +have):\n%s", diff)
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
		})
	}
}

func TestDesiredDevice(t *testing.T) {
	for _, f := range families() {
		in := input(f)
		want := Device{
			Name: "overlay0", Kind: "vxlan", MTU: 1500 - Overhead(family.Of(in.Underlay.Address)), MAC: vtepMAC(in.Own), Up: true, Alias: network.Default.TunnelAlias(), TxChecksum: true,
			Tunnel: tunnel.Tunnel{VNI: 1, Port: 4789, Underlay: 2, Local: in.Underlay.Address},
		}
		if diff := cmp.Diff(want, desired(t, f).Device, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: -want +got:\n%s", f.name, diff)
		}
	}
}

func TestDesiredRefuses(t *testing.T) {
	tests := []struct {
		name  string
		alter func(*Input)
		want  string
	}{
		{"a host without a subnet", func(in *Input) { in.Own.Subnets = nil }, `node "host-1" has no pod subnet yet`},
		{"too large an MTU", func(in *Input) { in.Config.MTU = 1451 }, "set mtu to 0 or at most 1450"},
		{"too small an MTU for IPv6", func(in *Input) { in.Underlay.MTU = 1329 }, "IPv6 pods need an MTU of 1280, but underlay eth0, whose MTU is 1329, leaves 1279: raise the MTU of eth0 to 1330 or more"},
	}
	for _, tt := range tests {
		in := input(families()[2])
		tt.alter(&in)
		s, err := Desired(in)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error is %v, want %q", tt.name, err, tt.want)
		}
		if s.Device.Name != "" {
			t.Errorf("%s: there is a device all the same", tt.name)
		}
	}
	in := input(families()[0])
	in.Own.Subnets = nil
	if _, err := Desired(in); !errors.Is(err, ErrNoSubnet) {
		t.Errorf("error %v is not ErrNoSubnet", err)
	}
}

// The numbers have to stay: another version would replace every route.
func TestProtocolStays(t *testing.T) {
	seen := map[uint8]bool{}
	for i := range 256 {
		p := protocol(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24))
		if p < firstProtocol || p >= firstProtocol+protocols {
			t.Fatalf("protocol %d", p)
		}
		seen[p] = true
	}
	if len(seen) != protocols {
		t.Errorf("256 subnets have only %d protocols", len(seen))
	}
	if p := protocol(netip.MustParsePrefix("10.244.2.0/24")); p != 216 {
		t.Errorf("10.244.2.0/24 has protocol %d", p)
	}
}
