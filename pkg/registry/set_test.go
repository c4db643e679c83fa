package registry

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// nodes reads one node a line: name, addresses, then /, pod subnets; "-" is
// the empty name.
func nodes(t testing.TB, lines ...string) []Node {
	t.Helper()
	var all []Node
	for _, line := range lines {
		words := strings.Fields(line)
		n := Node{Name: strings.Trim(words[0], "-")}
		for _, w := range words[1:] {
			if p, err := netip.ParsePrefix(w); err == nil {
				n.Subnets = append(n.Subnets, p)
				continue
			}
			a, err := netip.ParseAddr(w)
			if err != nil {
				t.Fatal(err)
			}
			n.Addresses = append(n.Addresses, a)
		}
		all = append(all, n)
	}
	return all
}

// setOf puts nodes into a new set.
func setOf(all []Node) *Set {
	s := NewSet()
	for _, n := range all {
		s.Put(Entry{Node: n})
	}
	return s
}

func problemsOf(all []Node) error {
	_, err := setOf(all).Nodes()
	return err
}

func TestSetTakesNodesWithoutContradictions(t *testing.T) {
	tests := map[string][]string{
		"none":                        nil,
		"one family":                  {"a 192.168.77.1 10.244.1.0/24", "b 192.168.77.2 10.244.2.0/24"},
		"two families, neighbours":    {"a 10.0.0.1 fd00::1 10.244.0.0/24 fd01::/64", "b 10.0.0.2 fd00::2 10.244.1.0/24 fd01:0:0:1::/64"},
		"several subnets of a family": {"a 10.0.0.1 10.244.0.0/24 10.244.2.0/24"},
		"no subnet yet":               {"a 10.0.0.1"},
		"names as people give them":   {"Host_1.example.org 10.0.0.1", "0 10.0.0.2"},
	}
	for name, lines := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := setOf(nodes(t, lines...)).Nodes()
			if err != nil || len(got) != len(lines) {
				t.Errorf("%d of %d nodes, error %v", len(got), len(lines), err)
			}
		})
	}
}

func TestSetLeavesOut(t *testing.T) {
	const rule = "write 1 to 253 letters, digits, '-', '_' and '.', beginning with a letter or digit"
	const reach = "give the address by which the other hosts reach this host"
	tests := map[string]struct {
		nodes []string
		want  []string
	}{
		"empty name": {[]string{"a 10.0.0.2", "- 10.0.0.1"},
			[]string{`node "": the name is empty: ` + rule}},
		"name with a slash": {[]string{"a/b 10.0.0.1"},
			[]string{`node "a/b": "a/b" is not a node name: ` + rule}},
		"name that begins with a dot": {[]string{"..a 10.0.0.1"},
			[]string{`node "..a": "..a" is not a node name: ` + rule}},
		"no address": {[]string{"a 10.1.0.0/24"},
			[]string{`node "a": has no address: give the address by which the other hosts reach it`}},
		"two of one family": {[]string{"a 10.0.0.1 fd00::1 10.0.0.2"},
			[]string{`node "a": addresses 10.0.0.1 and 10.0.0.2 are of one family: keep one of them`}},
		"one address twice": {[]string{"a 10.0.0.1 10.0.0.1"},
			[]string{`node "a": addresses 10.0.0.1 and 10.0.0.1 are of one family: keep one of them`}},
		"unspecified": {[]string{"a 0.0.0.0", "b ::"}, []string{
			`node "a": address 0.0.0.0 is not the address of a single host, but in 0.0.0.0/8 (this network): ` + reach,
			`node "b": address :: is not the address of a single host, but in ::/96 (unspecified, loopback and deprecated IPv4-compatible): ` + reach}},
		"multicast and broadcast": {[]string{"a 224.0.0.1", "b ff02::1", "c 255.255.255.255"}, []string{
			`node "a": address 224.0.0.1 is not the address of a single host, but in 224.0.0.0/4 (multicast): ` + reach,
			`node "b": address ff02::1 is not the address of a single host, but in ff00::/8 (multicast): ` + reach,
			`node "c": address 255.255.255.255 is not the address of a single host, but in 240.0.0.0/4 (reserved): ` + reach}},
		"reserved": {[]string{"a 0.1.2.3", "b 240.0.0.1", "c ::2"}, []string{
			`node "a": address 0.1.2.3 is not the address of a single host, but in 0.0.0.0/8 (this network): ` + reach,
			`node "b": address 240.0.0.1 is not the address of a single host, but in 240.0.0.0/4 (reserved): ` + reach,
			`node "c": address ::2 is not the address of a single host, but in ::/96 (unspecified, loopback and deprecated IPv4-compatible): ` + reach}},
		"reserved subnets, beside others": {[]string{"a 10.0.0.1 10.1.0.0/24", "b 10.0.0.2 240.1.0.0/24", "c 10.0.0.3 255.255.255.0/24", "d 10.0.0.4 0.1.0.0/16"}, []string{
			`node "b": pod subnet 240.1.0.0/24 is not a range of unicast addresses that can be routed: it overlaps 240.0.0.0/4 (reserved)`,
			`node "c": pod subnet 255.255.255.0/24 is not a range of unicast addresses that can be routed: it overlaps 240.0.0.0/4 (reserved)`,
			`node "d": pod subnet 0.1.0.0/16 is not a range of unicast addresses that can be routed: it overlaps 0.0.0.0/8 (this network)`}},
		"loopback": {[]string{"a 127.0.0.1", "b ::1"}, []string{
			`node "a": address 127.0.0.1 is a loopback address: ` + reach,
			`node "b": address ::1 is a loopback address: ` + reach}},
		"link-local": {[]string{"a 169.254.1.1", "b fe80::1%eth0"}, []string{
			`node "a": address 169.254.1.1 is link-local, which means a different host on every link: ` + reach,
			`node "b": address fe80::1%eth0 is link-local, which means a different host on every link: ` + reach}},
		"zone": {[]string{"a fd00::1%eth0"},
			[]string{`node "a": address fd00::1%eth0 has a zone: write fd00::1`}},
		"IPv4 in IPv6 form": {[]string{"a ::ffff:10.0.0.1"},
			[]string{`node "a": address ::ffff:10.0.0.1 is IPv4 in IPv6 form: write 10.0.0.1`}},
		"same address": {[]string{"b 10.0.0.1", "a 10.0.0.1"},
			[]string{`node "b": address 10.0.0.1 is also the address of node "a": give each host its own`}},
		"subnet that is not one": {[]string{"a 10.0.0.1 10.1.0.1/24"},
			[]string{`node "a": pod subnet 10.1.0.1/24 has host bits set: write 10.1.0.0/24`}},
		"same subnet": {[]string{"a 10.0.0.1 10.1.0.0/24", "b 10.0.0.2 10.1.0.0/24"},
			[]string{`node "b": pod subnet 10.1.0.0/24 overlaps pod subnet 10.1.0.0/24 of node "a": give each node subnets of its own`}},
		"subnet around another, not next to it": {[]string{
			"a 192.168.0.1 10.0.0.0/8", "b 192.168.0.2 10.0.0.0/24", "c 192.168.0.3 10.255.0.0/24"}, []string{
			`node "b": pod subnet 10.0.0.0/24 overlaps pod subnet 10.0.0.0/8 of node "a": give each node subnets of its own`,
			`node "c": pod subnet 10.255.0.0/24 overlaps pod subnet 10.0.0.0/8 of node "a": give each node subnets of its own`}},
		"the later name is blamed, whichever is larger": {[]string{"b 10.0.0.2 fd00::/48", "a 10.0.0.1 fd00:0:0:1::/64"},
			[]string{`node "b": pod subnet fd00::/48 overlaps pod subnet fd00:0:0:1::/64 of node "a": give each node subnets of its own`}},
		"subnets of one node": {[]string{"a 10.0.0.1 10.1.1.0/24 10.1.0.0/16"},
			[]string{`node "a": pod subnets 10.1.1.0/24 and 10.1.0.0/16 overlap: remove one`}},
		"address in a pod subnet": {[]string{"a 10.0.0.1 10.1.0.0/24", "b 10.1.0.5"},
			[]string{`node "b": address 10.1.0.5 lies inside pod subnet 10.1.0.0/24 of node "a": give the host an address outside of all pod subnets`}},
		"address in a pod subnet of a later node": {[]string{"a 10.1.0.5", "b 10.0.0.1 10.1.0.0/24"},
			[]string{`node "b": pod subnet 10.1.0.0/24 contains address 10.1.0.5 of node "a": give each host an address outside of all pod subnets`}},
		"address in the node's own pod subnet, and its network address": {[]string{"a fd00:: fd00::/64"},
			[]string{`node "a": address fd00:: lies inside pod subnet fd00::/64 of the same node: give the host an address outside of all pod subnets`}},
		"all of it, by name": {[]string{"c 10.0.0.1", "b", "a 10.0.0.1"}, []string{
			`node "b": has no address: give the address by which the other hosts reach it`,
			`node "c": address 10.0.0.1 is also the address of node "a": give each host its own`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := fmt.Sprint(problemsOf(nodes(t, tt.nodes...)))
			if diff := gocmp.Diff(strings.Join(tt.want, "\n"), got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInvalidZeroValues(t *testing.T) {
	err := Check(Node{Name: "a", Addresses: []netip.Addr{{}}, Subnets: []netip.Prefix{{}}})
	want := "node \"a\": pod subnet \"invalid Prefix\" is not a prefix such as 10.244.1.0/24\n" +
		"an address is empty: give the address by which the other hosts reach this host"
	if fmt.Sprint(err) != want {
		t.Errorf("got %v", err)
	}
}

func TestSummaryCountsWhatItDoesNotShow(t *testing.T) {
	sentinel := errors.New("a mistake")
	many := slices.Repeat([]error{sentinel}, 25)
	for count, wantLines := range map[int]int{0: 0, 20: 20, 21: 21, 25: 21} {
		err := Summary(many[:count])
		if count == 0 {
			if err != nil {
				t.Errorf("no errors: got %v", err)
			}
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != wantLines || !errors.Is(err, sentinel) {
			t.Errorf("%d errors: got %d lines", count, len(lines))
		}
	}
	if err := Summary(many); !strings.HasSuffix(err.Error(), "\nand 5 more") {
		t.Errorf("got %v", err)
	}
	if err := Summary(many[:21]); len(many) != 25 || !errors.Is(many[20], sentinel) {
		t.Errorf("the caller's slice was changed by %v", err)
	}
}

// contradict compares each part of two nodes with each.
func contradict(a, b Node) bool {
	return slices.ContainsFunc(spansOf(a), func(p netip.Prefix) bool { return slices.ContainsFunc(spansOf(b), p.Overlaps) })
}

// expected returns the names of the nodes that a set has to hold, by the simplest
// method: it compares each entry with each.
func expected(entries map[string]Entry) string {
	sorted := slices.SortedFunc(maps.Values(entries), func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), strings.Compare(a.Node.Name, b.Node.Name))
	})
	var in []Node
	for _, e := range sorted {
		n := e.Node
		if !contradict(Node{Addresses: n.Addresses}, Node{Subnets: n.Subnets}) &&
			!slices.ContainsFunc(in, func(other Node) bool { return contradict(n, other) }) {
			in = append(in, n)
		}
	}
	slices.SortFunc(in, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return names(in)
}

func names(all []Node) string {
	var names []string
	for _, n := range all {
		names = append(names, n.Name)
	}
	return strings.Join(names, " ")
}

// Whatever came before, and in whatever steps, the set and its problems follow
// from the entries alone, and Put and Remove report each change of them.
func TestSetFollowsFromTheEntriesAlone(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	entries, s := map[string]Entry{}, NewSet()
	refused := 0
	for round := range 3000 {
		before, beforeErr := s.Nodes()
		changed := false
		for range 1 + rng.IntN(3) {
			name := fmt.Sprintf("n%d", rng.IntN(6))
			if rng.IntN(4) == 0 {
				delete(entries, name)
				changed = s.Remove(name) || changed
				continue
			}
			e := Entry{Node: randomNode(rng, name), Rank: int64(rng.IntN(3))}
			entries[name] = e
			changed = s.Put(e) || changed
		}
		got, err := s.Nodes()
		if want := expected(entries); names(got) != want || (err == nil) != (len(got) == len(entries)) {
			t.Fatalf("round %d: %v\nnodes %q, want %q; error %v", round, entries, names(got), want, err)
		}
		fresh := NewSet()
		fresh.Replace(slices.Collect(maps.Values(entries)))
		if _, again := fresh.Nodes(); text(again) != text(err) {
			t.Fatalf("round %d: error %v, of the same entries in another order %v", round, err, again)
		}
		if !changed && (text(beforeErr) != text(err) || !slices.EqualFunc(before, got, Node.Equal)) {
			t.Fatalf("round %d: nobody reported the change from %v to %v", round, before, got)
		}
		if err != nil {
			refused++
		}
	}
	if refused < 500 || refused > 2500 {
		t.Errorf("%d of 3000 sets had contradictions: the random nodes are no good test", refused)
	}
}

// randomNode has a valid subnet and address of a small space, so that some
// nodes overlap.
func randomNode(rng *rand.Rand, name string) Node {
	addr := func() netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(rng.IntN(2)), byte(rng.IntN(32)), byte(1 + rng.IntN(250))})
	}
	p := netip.PrefixFrom(addr(), 20+rng.IntN(8)).Masked()
	return Node{Name: name, Addresses: []netip.Addr{addr()}, Subnets: []netip.Prefix{p}}
}

func TestReplaceReportsChanges(t *testing.T) {
	s := NewSet()
	entries := func(lines ...string) []Entry {
		var all []Entry
		for _, n := range nodes(t, lines...) {
			all = append(all, Entry{Node: n})
		}
		return all
	}
	const a, b = "a 10.0.0.1 10.1.0.0/24", "b 10.0.0.2 10.2.0.0/24"
	for _, step := range []struct {
		entries []Entry
		changed bool
		names   string
	}{
		{entries(a), true, "a"}, {entries(b, a), true, "a b"}, {entries(a, b), false, "a b"}, {entries(b), true, "b"}, {nil, true, ""},
	} {
		if changed := s.Replace(step.entries); changed != step.changed {
			t.Errorf("%q: changed is %t", step.names, changed)
		}
		if got, err := s.Nodes(); names(got) != step.names || err != nil {
			t.Errorf("nodes %q, want %q; error %v", names(got), step.names, err)
		}
	}
}

// An entry may be excluded, and may be in the set in spite of an error.
func TestEntryOfItsRegistry(t *testing.T) {
	s := NewSet()
	mistake := errors.New("a mistake")
	for i, n := range nodes(t, "a 10.0.0.1", "b", "c 10.0.0.3") {
		s.Put(Entry{Node: n, Excluded: i == 1, Err: mistake})
	}
	got, err := s.Nodes()
	if names(got) != "a c" || fmt.Sprint(err) != "a mistake\na mistake\na mistake" {
		t.Errorf("nodes %q, error %v", names(got), err)
	}
}

// The caller keeps what it got.
func TestNodesAreNotChangedLater(t *testing.T) {
	s := setOf(large(100))
	before, _ := s.Nodes()
	kept := slices.Clone(before)
	s.Remove("node-7")
	s.Put(Entry{Node: nodes(t, "node-9 10.99.99.1")[0]})
	if after, _ := s.Nodes(); len(after) != 99 || !slices.EqualFunc(kept, before, Node.Equal) {
		t.Errorf("%d nodes after it, the earlier ones are %v", len(after), before)
	}
}

// large is a valid set, four times as large as Kubernetes supports.
func large(count int) []Node {
	all := make([]Node, count)
	for i := range all {
		hi, lo := byte(i>>8), byte(i)
		all[i] = Node{
			Name:      fmt.Sprintf("node-%d", i),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 168 + hi/128, hi, lo})},
			Subnets: []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, hi, lo, 0}), 24),
				netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, 0, 0, 0, 0, hi, lo}), 64),
			},
		}
	}
	return all
}

func TestSetIsFastWithManyNodes(t *testing.T) {
	all := large(20_000)
	start := time.Now()
	if err := problemsOf(all); err != nil {
		t.Fatal(err)
	}
	// About 60 ms; comparing each with each takes more than ten seconds.
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
}

// BenchmarkOneChange is what one changed node costs among thousands.
func BenchmarkOneChange(b *testing.B) {
	s := setOf(large(5000))
	_, _ = s.Nodes()
	changes := nodes(b, "node-50 192.0.2.1 10.0.50.0/24", "node-50 192.0.2.2 10.0.50.0/24")
	for i := 0; b.Loop(); i++ {
		s.Put(Entry{Node: changes[i%2]})
		if _, err := s.Nodes(); err != nil {
			b.Fatal(err)
		}
	}
}
