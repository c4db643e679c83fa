package kube

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// rec is what a Node with these addresses and subnets becomes.
func rec(name, addresses, cidrs string) record {
	return recordOf(object(name, cidrs, of("InternalIP", addresses)...), "own")
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
			record record
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
				{record: rec("c", address, f.cidrs2), names: "b", err: fmt.Sprintf(`node "c": address %s is that of node "b", too: each host needs an address of its own`, address)},
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
				s := newSet()
				for i, step := range steps {
					if step.remove {
						s.remove(step.record.node.Name)
					} else {
						s.put(step.record)
					}
					got, err := s.nodes()
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
		s := newSet()
		s.replace(crowd(100)) // so that a change is not a rebuild
		s.put(rec("a", f.internal, f.cidrs))
		s.put(rec("b", f.other, f.cidrs2))
		if _, err := s.nodes(); err != nil {
			t.Fatal(err)
		}
		s.put(rec("a", f.internal, f.cidrs2))
		s.put(rec("b", f.other, f.cidrs))
		if nodes, err := s.nodes(); err != nil || len(nodes) != 102 {
			t.Errorf("%s: %d nodes, %v", f.name, len(nodes), err)
		}
	}
}

// A change without a contradiction touches nothing of the other nodes.
func TestOneChangeIsNoRebuild(t *testing.T) {
	for name, change := range map[string]func(*set){
		"none":      func(*set) {},
		"address":   func(s *set) { s.put(rec("host-00007", "192.0.2.1", "10.0.7.0/24")) },
		"subnet":    func(s *set) { s.put(rec("host-00007", "172.16.0.8", "10.99.7.0/24")) },
		"a mistake": func(s *set) { s.put(rec("host-00007", "", "10.0.7.0/24")) },
		"removed":   func(s *set) { s.remove("host-00007") },
		"added":     func(s *set) { s.put(rec("a", "192.0.2.1", "10.99.0.0/24")) },
	} {
		s := newSet()
		s.replace(crowd(100))
		_, _ = s.nodes()
		change(s)
		if !s.amend() {
			t.Errorf("%s: it gave up", name)
		}
		spans := 0
		for _, n := range s.admitted {
			spans += len(spansOf(n))
		}
		if got := s.claims.Size(); got != spans {
			t.Errorf("%s: %d claims, want %d", name, got, spans)
		}
	}
}

// crowd are records of many nodes without contradictions.
func crowd(count int) []record {
	records := make([]record, count)
	for i := range records {
		records[i] = rec(fmt.Sprintf("host-%05d", i), fmt.Sprintf("172.16.%d.%d fd78::%x", i/250, i%250+1, i+1), fmt.Sprintf("10.%d.%d.0/24 fd45:0:0:%x::/64", i/256, i%256, i))
	}
	return records
}

// Whatever came before, and in whatever steps, the set follows from the
// records alone.
func TestSetFollowsFromTheRecordsAlone(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	records := map[string]record{}
	s := newSet()
	for round := range 2000 {
		for range 1 + random.IntN(3) {
			name := fmt.Sprintf("host-%02d", random.IntN(40))
			if random.IntN(4) == 0 {
				delete(records, name)
				s.remove(name)
				continue
			}
			// Few enough contradictions that there are times without one.
			r := rec(name, fmt.Sprintf("192.0.2.%d", 1+random.IntN(150)), fmt.Sprintf("10.%d.0.0/%d", random.IntN(200), 15+random.IntN(3)))
			records[name] = r
			s.put(r)
		}
		if random.IntN(3) == 0 {
			continue // changes are taken over together
		}
		fresh := newSet()
		for _, r := range records {
			fresh.put(r)
		}
		got, err := s.nodes()
		want, wantErr := fresh.nodes()
		if diff := cmp.Diff(want, got, equalNodes()); diff != "" || text(err) != text(wantErr) {
			t.Fatalf("round %d: error %q, want %q; nodes (-want +got):\n%s", round, text(err), text(wantErr), diff)
		}
		if err := registry.Validate(got); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

func TestNewsAreNewsOnly(t *testing.T) {
	s := newSet()
	a, b := rec("a", "192.0.2.1", "10.244.1.0/24"), rec("b", "192.0.2.2", "10.244.2.0/24")
	for i, tt := range []struct{ got, want bool }{
		{s.put(a), true},
		{s.put(a), false},
		{s.put(rec("a", "192.0.2.1", "10.244.1.0/24")), false},
		{s.put(rec("a", "192.0.2.3", "10.244.1.0/24")), true},
		{s.put(rec("a", "", "10.244.1.0/24")), true},
		{s.replace([]record{a, b}), true},
		{s.replace([]record{b, a}), false},
		{s.replace([]record{a}), true},
		{s.remove("b"), false},
		{s.remove("a"), true},
	} {
		if tt.got != tt.want {
			t.Errorf("%d: news is %v", i, tt.got)
		}
	}
}

// What was handed out stays as it was.
func TestNodesAreNotChangedAfterwards(t *testing.T) {
	s := newSet()
	s.replace(crowd(100))
	before, _ := s.nodes()
	kept := append([]registry.Node(nil), before...)
	s.remove("host-00007")
	s.put(rec("host-00009", "192.0.2.1", "10.99.0.0/24"))
	after, _ := s.nodes()
	if diff := cmp.Diff(kept, before, equalNodes()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if len(after) != 99 {
		t.Errorf("%d nodes are left of 100", len(after))
	}
}

func BenchmarkOneChange(b *testing.B) {
	for _, count := range []int{100, 5000, 20000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			s := newSet()
			s.replace(crowd(count))
			_, _ = s.nodes()
			changes := []record{rec("host-00050", "192.0.2.1", "10.0.50.0/24"), rec("host-00050", "192.0.2.2", "10.0.50.0/24")}
			for i := 0; b.Loop(); i++ {
				s.put(changes[i%2])
				if _, err := s.nodes(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFirstSet(b *testing.B) {
	records := crowd(5000)
	for b.Loop() {
		s := newSet()
		s.replace(records)
		if _, err := s.nodes(); err != nil {
			b.Fatal(err)
		}
	}
}
