package registry

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// someNodes are of few values, so that two sets have much in common.
func someNodes(r *rand.Rand) []Node {
	var nodes []Node
	for i := range 9 {
		if r.IntN(3) == 0 {
			continue
		}
		n := Node{Name: fmt.Sprint("host-", i)}
		for range r.IntN(3) {
			n.Addresses = append(n.Addresses, netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(2))}))
		}
		for range r.IntN(3) {
			n.Subnets = append(n.Subnets, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(2))}), 24))
		}
		nodes = append(nodes, n)
	}
	return nodes
}

// The new set is the old one without gone and with come, even if the sets are not
// sorted. If they are sorted, no unchanged node is in gone and come.
func TestDiff(t *testing.T) {
	text := func(nodes []Node) []string {
		var all []string
		for _, n := range nodes {
			all = append(all, fmt.Sprint(n))
		}
		return all
	}
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 0))
		before, after := someNodes(r), someNodes(r)
		if seed%2 == 0 {
			r.Shuffle(len(before), func(i, j int) { before[i], before[j] = before[j], before[i] })
			r.Shuffle(len(after), func(i, j int) { after[i], after[j] = after[j], after[i] })
		}
		gone, come := Diff(before, after)
		rest := text(before)
		for _, n := range text(gone) {
			i := slices.Index(rest, n)
			if i < 0 {
				t.Fatalf("seed %d: %s goes and was not there", seed, n)
			}
			if seed%2 == 1 && slices.Contains(text(come), n) {
				t.Fatalf("seed %d: %s goes and comes", seed, n)
			}
			rest = slices.Delete(rest, i, i+1)
		}
		got, want := slices.Sorted(slices.Values(append(rest, text(come)...))), slices.Sorted(slices.Values(text(after)))
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("seed %d: -want +got:\n%s", seed, diff)
		}
	}
}

func TestSameSubnets(t *testing.T) {
	set := func(names, subnets []string) []Node {
		var nodes []Node
		for i := range names {
			nodes = append(nodes, Node{Name: names[i], Subnets: []netip.Prefix{netip.MustParsePrefix(subnets[i])}})
		}
		return nodes
	}
	before := set([]string{"a", "b"}, []string{"10.1.0.0/24", "10.2.0.0/24"})
	for name, tt := range map[string]struct {
		after []Node
		want  bool
	}{
		"the same":          {before, true},
		"equal":             {set([]string{"a", "b"}, []string{"10.1.0.0/24", "10.2.0.0/24"}), true},
		"other names":       {set([]string{"c", "d"}, []string{"10.1.0.0/24", "10.2.0.0/24"}), false},
		"one less":          {before[:1], false},
		"another subnet":    {set([]string{"a", "b"}, []string{"10.1.0.0/24", "10.3.0.0/24"}), false},
		"subnets exchanged": {set([]string{"a", "b"}, []string{"10.2.0.0/24", "10.1.0.0/24"}), false},
	} {
		if got := SameSubnets(before, tt.after); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// BenchmarkDiff compares sets of which one node differs.
func BenchmarkDiff(b *testing.B) {
	nodes := make([]Node, 5000)
	for i := range nodes {
		nodes[i] = Node{
			Name:      fmt.Sprintf("node-%05d", i),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})},
			Subnets:   []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)},
		}
	}
	after := slices.Clone(nodes)
	after[4000].Addresses = nodes[1].Addresses
	for b.Loop() {
		if gone, come := Diff(nodes, after); len(gone)+len(come) != 2 {
			b.Fatal(gone, come)
		}
	}
}
