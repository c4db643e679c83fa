package underlay

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/config"
)

func addrs(s string) []netip.Addr {
	var as []netip.Addr
	for _, f := range strings.Fields(s) {
		as = append(as, netip.MustParseAddr(f))
	}
	return as
}

// office is a host with two networks, a third that is down, and our devices.
func office() Network {
	link := func(index int, name, as string) Link {
		return Link{Name: name, Index: index, MTU: 1500, Up: true, Addrs: addrs(as)}
	}
	n := Network{
		Links: []Link{
			link(1, "lo", "127.0.0.1 ::1 10.0.0.9"),
			link(2, "eth0", "192.168.77.1 192.168.77.200 fd77::1 fe80::1"),
			link(3, "eth1", "10.1.0.1 fe80::2"),
			link(4, "eth2", "10.2.0.1"),
			link(5, "eth3", "fe80::3"),
			link(6, "overlay0", "10.244.1.0"),
			link(7, "six", "fd88::1"),
			link(8, "veth1234", ""),
		},
		Defaults: []DefaultRoute{{v4, 100, 2}, {v4, 50, 3}, {v6, 10, 7}, {v6, 5, 2}},
	}
	n.Links[0].Loopback = true
	n.Links[3].Up = false
	return n
}

const v4, v6 = family.IPv4, family.IPv6

func TestChoose(t *testing.T) {
	tests := []struct {
		name  string
		want  config.Underlay
		nodes string
		alter func(*Network)
		link  string
		addr  string
	}{
		{name: "default route of the lowest metric", link: "eth1", addr: "10.1.0.1"},
		{name: "equal metrics", alter: func(n *Network) { n.Defaults = []DefaultRoute{{v4, 5, 3}, {v4, 5, 2}} }, link: "eth0", addr: "192.168.77.1"},
		{name: "only IPv6 default routes", alter: func(n *Network) { n.Defaults = n.Defaults[2:] }, link: "eth0", addr: "fd77::1"},
		{name: "default route through ourselves is passed over",
			alter: func(n *Network) { n.Defaults = append(n.Defaults, DefaultRoute{v4, 0, 6}) }, link: "eth1", addr: "10.1.0.1"},
		{name: "default route of an interface without addresses is passed over",
			alter: func(n *Network) { n.Defaults = append(n.Defaults, DefaultRoute{v4, 0, 5}) }, link: "eth1", addr: "10.1.0.1"},
		{name: "default route of an interface that is down is passed over",
			alter: func(n *Network) { n.Defaults = append(n.Defaults, DefaultRoute{v4, 0, 4}) }, link: "eth1", addr: "10.1.0.1"},
		{name: "registry's address", nodes: "192.168.77.200", link: "eth0", addr: "192.168.77.200"},
		{name: "registry's addresses in its order", nodes: "fd77::1 192.168.77.1", link: "eth0", addr: "fd77::1"},
		{name: "registry's address without a default route", nodes: "192.168.77.1",
			alter: func(n *Network) { n.Defaults = nil }, link: "eth0", addr: "192.168.77.1"},
		{name: "registry's address is behind NAT", nodes: "203.0.113.7", link: "eth1", addr: "10.1.0.1"},

		{name: "interface", want: config.Underlay{Interface: "eth0"}, link: "eth0", addr: "192.168.77.1"},
		{name: "interface with the registry's address", want: config.Underlay{Interface: "eth0"}, nodes: "192.168.77.200", link: "eth0", addr: "192.168.77.200"},
		{name: "interface with the registry's family", want: config.Underlay{Interface: "eth0"}, nodes: "2001:db8::1", link: "eth0", addr: "fd77::1"},
		{name: "interface with IPv6 alone", want: config.Underlay{Interface: "six"}, link: "six", addr: "fd88::1"},

		{name: "address", want: config.Underlay{Address: netip.MustParseAddr("fd77::1")}, nodes: "192.168.77.1", link: "eth0", addr: "fd77::1"},
		{name: "second address", want: config.Underlay{Address: netip.MustParseAddr("192.168.77.200")}, link: "eth0", addr: "192.168.77.200"},

		{name: "reaches", want: config.Underlay{Reaches: netip.MustParseAddr("192.168.77.9")},
			alter: func(n *Network) { n.Reached = 2 }, link: "eth0", addr: "192.168.77.1"},
		{name: "reaches by IPv6", want: config.Underlay{Reaches: netip.MustParseAddr("2001:db8::1")}, nodes: "192.168.77.200",
			alter: func(n *Network) { n.Reached = 2 }, link: "eth0", addr: "fd77::1"},
		{name: "reaches, with the registry's address", want: config.Underlay{Reaches: netip.MustParseAddr("192.168.77.9")}, nodes: "fd77::1 192.168.77.200",
			alter: func(n *Network) { n.Reached = 2 }, link: "eth0", addr: "192.168.77.200"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			net := office()
			if tt.alter != nil {
				tt.alter(&net)
			}
			u, err := Choose(Spec{Want: tt.want, NodeAddrs: addrs(tt.nodes), Ours: []string{"overlay0", "cni0"}}, net)
			if err != nil {
				t.Fatal(err)
			}
			if u.Name != tt.link || u.Address.String() != tt.addr || u.MTU != 1500 || net.Links[u.Index-1].Name != tt.link {
				t.Errorf("got %+v, want %s on %s", u, tt.addr, tt.link)
			}
		})
	}
}

// The family that is asked for goes before the registry's order, and nothing
// else is taken: the other hosts send in it.
func TestChooseFamily(t *testing.T) {
	const ipv4, ipv6 = family.IPv4, family.IPv6
	tests := []struct {
		name   string
		family family.Family
		want   config.Underlay
		nodes  string
		alter  func(*Network)
		addrs  string // what the host is reached by, the tunnel's first; or why there is none
	}{
		{name: "auto", family: family.Family(0), nodes: "fd77::1 192.168.77.1", addrs: "fd77::1 192.168.77.1"},
		{name: "IPv4, second in the registry", family: ipv4, nodes: "fd77::1 192.168.77.1", addrs: "192.168.77.1 fd77::1"},
		{name: "IPv6, second in the registry", family: ipv6, nodes: "192.168.77.200 fd77::1", addrs: "fd77::1 192.168.77.200"},
		{name: "interface", family: ipv6, want: config.Underlay{Interface: "eth0"}, addrs: "fd77::1 192.168.77.1"},
		{name: "interface, against the registry", family: ipv6, want: config.Underlay{Interface: "eth0"}, nodes: "192.168.77.200", addrs: "fd77::1 192.168.77.200"},
		{name: "default route of the family", family: ipv6, addrs: "fd77::1 192.168.77.1"},
		{name: "default route of the family, behind NAT", family: ipv6, nodes: "203.0.113.7", addrs: "fd77::1 192.168.77.1"},
		{name: "one family alone", family: ipv4, want: config.Underlay{Interface: "eth1"}, addrs: "10.1.0.1"},
		{name: "interface without it", family: ipv6, want: config.Underlay{Interface: "eth1"},
			addrs: `interface "eth1" has no global IPv6 address: add one, or set underlay to another interface, or underlayFamily (ipv6) to the other family, on all hosts`},
		{name: "no default route of it", family: ipv6, nodes: "10.1.0.1", alter: func(n *Network) { n.Defaults = n.Defaults[:2] },
			addrs: `there is no IPv6 default route, and no interface has an address by which the registry knows this host (10.1.0.1): set underlay to an interface or an address, or underlayFamily (ipv6) to the other family, on all hosts`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			net := office()
			if tt.alter != nil {
				tt.alter(&net)
			}
			u, err := Choose(Spec{Want: tt.want, Family: tt.family, NodeAddrs: addrs(tt.nodes), Ours: []string{"overlay0", "cni0"}}, net)
			got := strings.Trim(fmt.Sprint(u.Addresses), "[]")
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, tt.addrs) || err == nil && (got != tt.addrs || u.Address != u.Addresses[0]) {
				t.Errorf("got  %s\nwant %s", got, tt.addrs)
			}
		})
	}
}

func TestChooseErrors(t *testing.T) {
	tests := []struct {
		name  string
		want  config.Underlay
		nodes string
		alter func(*Network)
		text  string
	}{
		{name: "no such interface", want: config.Underlay{Interface: "eth9"},
			text: `there is no interface "eth9": set underlay to one that exists`},
		{name: "interface down", want: config.Underlay{Interface: "eth2"},
			text: `interface "eth2" is down: set it up with "ip link set eth2 up"`},
		{name: "loopback", want: config.Underlay{Interface: "lo"}, text: `interface "lo" is a loopback`},
		{name: "our device", want: config.Underlay{Interface: "overlay0"}, text: `interface "overlay0" is one of overlay-cni's own`},
		{name: "no address at all", want: config.Underlay{Interface: "eth3"},
			text: `interface "eth3" has no global IPv4 or IPv6 address: add one`},
		{name: "no address of the registry's family", want: config.Underlay{Interface: "six"}, nodes: "192.0.2.1",
			text: `interface "six" has no global IPv4 address`},
		{name: "no such address", want: config.Underlay{Address: netip.MustParseAddr("192.0.2.1")},
			text: "no interface has the address 192.0.2.1: set underlay to an address of this host"},
		{name: "address of a loopback", want: config.Underlay{Address: netip.MustParseAddr("127.0.0.1")}, text: "is a loopback"},
		{name: "registry's address on our device", nodes: "10.244.1.0", text: "is one of overlay-cni's own"},
		{name: "unreachable", want: config.Underlay{Reaches: netip.MustParseAddr("192.0.2.1")}, text: "no route leads to 192.0.2.1: add one"},
		{name: "reached without an address of the family", want: config.Underlay{Reaches: netip.MustParseAddr("2001:db8::1")},
			alter: func(n *Network) { n.Reached = 3 }, text: `interface "eth1" has no global IPv6 address`},
		{name: "no default route", nodes: "192.0.2.1", alter: func(n *Network) { n.Defaults = nil },
			text: "there is no IPv4 default route, and no interface has an address by which the registry knows this host (192.0.2.1): set underlay"},
		{name: "no default route that will do", alter: func(n *Network) { n.Defaults = []DefaultRoute{{v4, 0, 6}, {v6, 0, 3}} },
			text: `the IPv4 default route: interface "overlay0" is one of overlay-cni's own, which would send the tunnel through itself: set underlay to another interface; the IPv6 default route: interface "eth1" has no global IPv6 address`},
	}
	const there = "; this host has lo 127.0.0.1 ::1 10.0.0.9, eth0 192.168.77.1 192.168.77.200 fd77::1 fe80::1, eth1 10.1.0.1 fe80::2, eth2 10.2.0.1 (down), eth3 fe80::3, overlay0 10.244.1.0, six fd88::1"
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			net := office()
			if tt.alter != nil {
				tt.alter(&net)
			}
			u, err := Choose(Spec{Want: tt.want, NodeAddrs: addrs(tt.nodes), Ours: []string{"overlay0"}}, net)
			if err == nil {
				t.Fatalf("got %+v", u)
			}
			if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), tt.text) || !strings.HasSuffix(err.Error(), there) {
				t.Errorf("got  %v\nwant %s ... %s", err, tt.text, there)
			}
		})
	}
}
