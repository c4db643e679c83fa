package registry

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

func TestValidateAccepts(t *testing.T) {
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
			if err := Validate(nodes(t, lines...)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestValidateRefuses(t *testing.T) {
	const rule = "write 1 to 253 letters, digits, '-', '_' and '.', beginning with a letter or digit"
	const reach = "give the address by which the other hosts reach this one"
	tests := map[string]struct {
		nodes []string
		want  []string
	}{
		"empty name": {[]string{"a 10.0.0.2", "- 10.0.0.1"},
			[]string{`number 2 of the nodes: the name is empty: ` + rule}},
		"name with a slash": {[]string{"a/b 10.0.0.1"},
			[]string{`node "a/b": "a/b" is not a node name: ` + rule}},
		"name that begins with a dot": {[]string{"..a 10.0.0.1"},
			[]string{`node "..a": "..a" is not a node name: ` + rule}},
		"name given twice": {[]string{"a 10.0.0.1", "b 10.0.0.2", "a 10.0.0.3"},
			[]string{`node "a": the name is given twice, with addresses [10.0.0.1] and [10.0.0.3]: rename or remove one`}},
		"no address": {[]string{"a 10.1.0.0/24"},
			[]string{`node "a": has no address: give the one by which the other hosts reach it`}},
		"two of one family": {[]string{"a 10.0.0.1 fd00::1 10.0.0.2"},
			[]string{`node "a": addresses 10.0.0.1 and 10.0.0.2 are of one family: keep one of them`}},
		"one address twice": {[]string{"a 10.0.0.1 10.0.0.1"},
			[]string{`node "a": addresses 10.0.0.1 and 10.0.0.1 are of one family: keep one of them`}},
		"unspecified": {[]string{"a 0.0.0.0", "b ::"}, []string{
			`node "a": address 0.0.0.0 is not one of a single host: ` + reach,
			`node "b": address :: is not one of a single host: ` + reach}},
		"multicast and broadcast": {[]string{"a 224.0.0.1", "b ff02::1", "c 255.255.255.255"}, []string{
			`node "a": address 224.0.0.1 is not one of a single host: ` + reach,
			`node "b": address ff02::1 is not one of a single host: ` + reach,
			`node "c": address 255.255.255.255 is not one of a single host: ` + reach}},
		"loopback": {[]string{"a 127.0.0.1", "b ::1"}, []string{
			`node "a": address 127.0.0.1 is a loopback address: ` + reach,
			`node "b": address ::1 is a loopback address: ` + reach}},
		"link-local": {[]string{"a 169.254.1.1", "b fe80::1%eth0"}, []string{
			`node "a": address 169.254.1.1 is link-local, so it means something else on every host: ` + reach,
			`node "b": address fe80::1%eth0 is link-local, so it means something else on every host: ` + reach}},
		"zone": {[]string{"a fd00::1%eth0"},
			[]string{`node "a": address fd00::1%eth0 has a zone: write fd00::1`}},
		"IPv4 in IPv6 form": {[]string{"a ::ffff:10.0.0.1"},
			[]string{`node "a": address ::ffff:10.0.0.1 is IPv4 in IPv6 form: write 10.0.0.1`}},
		"same address": {[]string{"b 10.0.0.1", "a 10.0.0.1"},
			[]string{`node "b": address 10.0.0.1 is that of node "a", too: each host needs an address of its own`}},
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
			[]string{`node "a": pod subnets 10.1.0.0/16 and 10.1.1.0/24 overlap: remove one`}},
		"address in a pod subnet": {[]string{"a 10.0.0.1 10.1.0.0/24", "b 10.1.0.5"},
			[]string{`node "b": address 10.1.0.5 lies inside pod subnet 10.1.0.0/24 of node "a": give the host an address outside of all pod subnets`}},
		"address in the node's own pod subnet, and its network address": {[]string{"a fd00:: fd00::/64"},
			[]string{`node "a": address fd00:: lies inside pod subnet fd00::/64 of node "a": give the host an address outside of all pod subnets`}},
		"all of it, by name": {[]string{"c 10.0.0.1", "b", "a 10.0.0.1"}, []string{
			`node "b": has no address: give the one by which the other hosts reach it`,
			`node "c": address 10.0.0.1 is that of node "a", too: each host needs an address of its own`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := fmt.Sprint(Validate(nodes(t, tt.nodes...)))
			if diff := cmp.Diff(strings.Join(tt.want, "\n"), got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProblemsNameTheNodeByItsIndex(t *testing.T) {
	problems := Problems(nodes(t, "b 10.0.0.1", "c 10.0.0.2", "a 10.0.0.1"))
	if len(problems) != 1 || problems[0].Node != 0 {
		t.Errorf("got %v, want one problem of node 0", problems)
	}
}

func TestInvalidZeroValues(t *testing.T) {
	err := Validate([]Node{{Name: "a", Addresses: []netip.Addr{{}}, Subnets: []netip.Prefix{{}}}})
	want := "node \"a\": an address is empty: give the address by which the other hosts reach this one\n" +
		"node \"a\": pod subnet \"invalid Prefix\" is not a prefix such as 10.244.1.0/24"
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

// overlaps compares each with each, which nobody can get wrong.
func overlaps(all []Node) bool {
	type owned struct {
		p    netip.Prefix
		host bool
	}
	var spans []owned
	for _, n := range all {
		for _, p := range n.Subnets {
			spans = append(spans, owned{p, false})
		}
		for _, a := range n.Addresses {
			spans = append(spans, owned{netip.PrefixFrom(a, a.BitLen()), true})
		}
	}
	for i, a := range spans {
		for _, b := range spans[:i] {
			if a.p.Overlaps(b.p) {
				return true
			}
		}
	}
	return false
}

// Property: the sweep finds an overlap exactly where comparing each with each
// does, and the text does not depend on the order of the nodes.
func TestSweepAgreesWithComparingAll(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 3000 {
		all := randomNodes(rng)
		err := Validate(all)
		if overlaps(all) != (err != nil) {
			t.Fatalf("%v\nerror %v, overlap %v", all, err, overlaps(all))
		}
		if err != nil {
			refused++
		}
		text := fmt.Sprint(err)
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if again := fmt.Sprint(Validate(all)); again != text {
			t.Fatalf("shuffled:\n%s\nbefore:\n%s", again, text)
		}
	}
	if refused < 500 || refused > 2500 {
		t.Errorf("%d of 3000 were refused: the random nodes are no good test", refused)
	}
}

// randomNodes have valid subnets and addresses of a small space, so that some
// overlap.
func randomNodes(rng *rand.Rand) []Node {
	all := make([]Node, 1+rng.IntN(5))
	for i := range all {
		addr := func() netip.Addr {
			return netip.AddrFrom4([4]byte{10, byte(rng.IntN(2)), byte(rng.IntN(8)), byte(1 + rng.IntN(250))})
		}
		p := netip.PrefixFrom(addr(), 18+rng.IntN(11)).Masked()
		all[i] = Node{Name: fmt.Sprint("n", i), Addresses: []netip.Addr{addr()}, Subnets: []netip.Prefix{p}}
	}
	return all
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

func TestValidateIsFastWithManyNodes(t *testing.T) {
	all := large(20_000)
	start := time.Now()
	if err := Validate(all); err != nil {
		t.Fatal(err)
	}
	// About 30 ms; comparing each with each takes more than ten seconds.
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
}

func BenchmarkValidate20000(b *testing.B) {
	all := large(20_000)
	for b.Loop() {
		if err := Validate(all); err != nil {
			b.Fatal(err)
		}
	}
}
