package kube

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// rec is the entry of a Node with these addresses and subnets.
func rec(name, addresses, cidrs string) registry.Entry {
	return entryOf(object(name, cidrs, of("InternalIP", addresses)...), "own", nil)
}

func names(nodes []registry.Node) string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.Name)
	}
	return strings.Join(all, " ")
}

// A contradiction costs the later node by name its place and no other one, for
// as long as it lasts.
func TestContradictions(t *testing.T) {
	for _, f := range families() {
		subnet, subnet2 := strings.Fields(f.cidrs)[0], strings.Fields(f.cidrs2)[0]
		address := strings.Fields(f.internal)[0]
		wide := netip.PrefixFrom(netip.MustParsePrefix(subnet).Addr(), netip.MustParsePrefix(subnet).Bits()-8).Masked().String()
		type step struct {
			record registry.Entry
			remove bool
			names  string
			err    string
		}
		for name, steps := range map[string][]step{
			"same subnet": {
				{record: rec("b", f.internal, f.cidrs), names: "b"},
				{record: rec("c", f.other, subnet), names: "b", err: fmt.Sprintf(`node "c": pod subnet %s overlaps pod subnet %s of node "b": give each node subnets of its own`, subnet, subnet)},
				{record: rec("b", f.internal, f.cidrs2), names: "b c"},
			},
			"earlier by name comes later": {
				{record: rec("b", f.internal, f.cidrs), names: "b"},
				{record: rec("a", f.other, subnet), names: "a", err: `node "b": pod subnet ` + subnet + ` overlaps`},
				{record: rec("a", f.other, subnet), remove: true, names: "b"},
			},
			"same address": {
				{record: rec("b", f.internal, f.cidrs), names: "b"},
				{record: rec("c", address, f.cidrs2), names: "b", err: fmt.Sprintf(`node "c": address %s is also the address of node "b": give each host its own`, address)},
				{record: rec("b", f.internal, f.cidrs), remove: true, names: "c"},
			},
			// Of a, b and c, b contradicts both. Without b, c does not.
			"refused nodes refuse none": {
				{record: rec("a", f.internal, subnet), names: "a"},
				{record: rec("c", f.other, subnet2), names: "a c"},
				{record: rec("b", strings.Fields(f.extern)[0], wide), names: "a c", err: `node "b": pod subnet`},
				{record: rec("a", f.internal, subnet), remove: true, names: "b", err: `node "c": pod subnet`},
			},
			"a mistake of its own": {
				{record: rec("a", f.internal, f.cidrs), names: "a"},
				{record: rec("b", "", f.cidrs2), names: "a", err: `node "b" has no address`},
				{record: rec("b", f.other, f.cidrs2), names: "a b"},
			},
			"swapped": {
				{record: rec("a", f.internal, f.cidrs), names: "a"},
				{record: rec("b", f.other, f.cidrs2), names: "a b"},
				{record: rec("a", f.internal, f.cidrs2), names: "a", err: `node "b": pod subnet`},
				{record: rec("b", f.other, f.cidrs), names: "a b"},
			},
		} {
			t.Run(f.name+"/"+name, func(t *testing.T) {
				s := registry.NewSet()
				for i, step := range steps {
					if step.remove {
						s.Remove(step.record.Node.Name)
					} else {
						s.Put(step.record)
					}
					got, err := s.Nodes()
					if names(got) != step.names || (err == nil) != (step.err == "") || !strings.Contains(text(err), step.err) {
						t.Fatalf("step %d: nodes %q, want %q; error %q, want %q", i, names(got), step.names, text(err), step.err)
					}
				}
			})
		}
	}
}

// Both may be done in one update: nodes that swap their subnets.
func TestSwapInOneUpdateIsNoContradiction(t *testing.T) {
	for _, f := range families() {
		s := registry.NewSet()
		s.Put(rec("a", f.internal, f.cidrs))
		s.Put(rec("b", f.other, f.cidrs2))
		if _, err := s.Nodes(); err != nil {
			t.Fatal(err)
		}
		s.Put(rec("a", f.internal, f.cidrs2))
		s.Put(rec("b", f.other, f.cidrs))
		if nodes, err := s.Nodes(); err != nil || len(nodes) != 2 {
			t.Errorf("%s: %d nodes, %v", f.name, len(nodes), err)
		}
	}
}
