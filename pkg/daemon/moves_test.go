package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// nodesOf reads "a=192.0.2.1,2001:db8::1 b=192.0.2.2".
func nodesOf(text string) []registry.Node {
	var nodes []registry.Node
	for field := range strings.FieldsSeq(text) {
		name, addresses, _ := strings.Cut(field, "=")
		n := registry.Node{Name: name}
		for a := range strings.SplitSeq(addresses, ",") {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func TestFormerAddresses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		rounds []string // one every 4 seconds
		want   string
		left   time.Duration
	}{
		{"none at first", []string{"a=192.0.2.1 b=192.0.2.2"}, "[]", 0},
		{"moved, IPv4", []string{"a=192.0.2.1 b=192.0.2.2", "a=192.0.2.1 b=192.0.2.3"}, "[192.0.2.2]", keepAddress},
		{"moved, IPv6", []string{"a=2001:db8::1", "a=2001:db8::2"}, "[2001:db8::1]", keepAddress},
		{"one family moved", []string{"a=192.0.2.1,2001:db8::1", "a=192.0.2.1,2001:db8::2"}, "[2001:db8::1]", keepAddress},
		{"moved twice", []string{"a=192.0.2.1", "a=192.0.2.2", "a=192.0.2.3"}, "[192.0.2.1 192.0.2.2]", 6 * time.Second},
		{"long ago", []string{"a=192.0.2.1", "a=192.0.2.2", "a=192.0.2.2", "a=192.0.2.2", "a=192.0.2.2"}, "[]", 0},
		{"left", []string{"a=192.0.2.1 b=192.0.2.2", "a=192.0.2.1"}, "[]", 0},
		{"moved and left", []string{"a=192.0.2.1 b=192.0.2.2", "a=192.0.2.1 b=192.0.2.3", "a=192.0.2.1"}, "[]", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m moves
			var got []netip.Addr
			var left time.Duration
			now := time.Unix(0, 0)
			for _, r := range tt.rounds {
				got, left = m.addresses(nodesOf(r), now)
				now = now.Add(4 * time.Second)
			}
			if fmt.Sprint(got) != tt.want || left != tt.left {
				t.Errorf("got %v for %s, want %s for %s", got, left, tt.want, tt.left)
			}
		})
	}
}

func TestHoldingTheAddress(t *testing.T) {
	a := netip.MustParseAddr
	on := func(name, address string) underlay.Underlay {
		return underlay.Underlay{Name: name, Address: a(address)}
	}
	for _, tt := range []struct {
		name        string
		first, next underlay.Underlay
		gone        bool // the first address
		after       time.Duration
		want        string
	}{
		{"the same", on("eth0", "192.0.2.1"), on("eth0", "192.0.2.1"), false, 0, "192.0.2.1"},
		{"moved, IPv4", on("eth0", "192.0.2.1"), on("eth0", "192.0.2.2"), false, 0, "192.0.2.1"},
		{"moved, IPv6", on("eth0", "2001:db8::1"), on("eth0", "2001:db8::2"), false, 0, "2001:db8::1"},
		{"moved some time ago", on("eth0", "192.0.2.1"), on("eth0", "192.0.2.2"), false, holdAddress, "192.0.2.2"},
		{"the old one is gone", on("eth0", "192.0.2.1"), on("eth0", "192.0.2.2"), true, 0, "192.0.2.2"},
		{"another interface", on("eth0", "192.0.2.1"), on("eth1", "192.0.2.2"), false, 0, "192.0.2.2"},
		{"the other family", on("eth0", "192.0.2.1"), on("eth0", "2001:db8::1"), false, 0, "2001:db8::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			find := func(want config.Underlay) (underlay.Underlay, error) {
				if tt.gone {
					return underlay.Underlay{}, errors.New("gone")
				}
				return underlay.Underlay{Name: tt.first.Name, Address: want.Address}, nil
			}
			var m moves
			now := time.Unix(1, 0)
			m.hold(tt.first, find, now)
			m.hold(tt.next, find, now)
			got, left := m.hold(tt.next, find, now.Add(tt.after))
			if got.Address.String() != tt.want || (left > 0) != (got.Address != tt.next.Address) {
				t.Errorf("holds %s for %s, want %s", got.Address, left, tt.want)
			}
		})
	}
}
