package daemon

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
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

func TestNodesOfOneFamily(t *testing.T) {
	const notTogether = `, so that their pods don't reach each other: give one of the two a subnet of the other family as well`
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
		{"one of IPv4 among those of both", withPods("46", "4", "46"), "pods have addresses of IPv4 alone on n2", "<nil>"},
		{"this one is of IPv6 alone", withPods("6", "46"), "pods have addresses of IPv6 alone on n1", "<nil>"},
		{"nothing in common", withPods("4", "6", "46"), "pods have addresses of IPv4 alone on n1, of IPv6 alone on n2",
			`peer "n2" has pod subnets of IPv6 alone, and this host of IPv4 alone` + notTogether},
		{"many", withPods("46", "4", "4", "4", "4", "4", "4", "4"), "pods have addresses of IPv4 alone on n2, n3, n4, n5, n6 and 2 more", "<nil>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := oneFamily(tt.nodes); got != tt.note {
				t.Errorf("noted %q, want %q", got, tt.note)
			}
			if got := fmt.Sprint(apart(tt.nodes[0], tt.nodes)); got != tt.apart {
				t.Errorf("apart: %s\nwant   %s", got, tt.apart)
			}
		})
	}
}

func TestFamiliesAreRemembered(t *testing.T) {
	var last lastFamilies
	both, four := families()[2], families()[0]
	sets := [][]registry.Node{
		{both.node(1), both.node(2)},
		{both.node(1), four.node(2)},
		{both.node(1), four.node(2), four.node(3)},
		{both.node(1), both.node(2)},
	}
	for i, nodes := range append(sets, sets...) {
		note, err := last.of(nodes[0], nodes)
		if want := oneFamily(nodes); note != want {
			t.Errorf("%d: note is %q, want %q", i, note, want)
		}
		if want := apart(nodes[0], nodes); fmt.Sprint(err) != fmt.Sprint(want) {
			t.Errorf("%d: error is %v, want %v", i, err, want)
		}
	}
}
