package host

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
