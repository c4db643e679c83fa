package nft

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// dial opens a socket in a network namespace of the test's own.
func dial(t testing.TB) *Conn {
	t.Helper()
	var c *Conn
	sandboxtest.Do(t, sandboxtest.NewNetns(t), func() (err error) {
		c, err = Dial()
		return err
	})
	t.Cleanup(c.Close)
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testID() ID { return ID{Inet, "test"} }

func read(t testing.TB, c *Conn) *Table {
	t.Helper()
	table, _, err := c.Read(testID())
	must(t, err)
	return table
}

func sync(t testing.TB, c *Conn, want *Table) []string {
	t.Helper()
	changes, err := c.Sync(testID(), func(*Table) (*Table, error) { return want, nil })
	must(t, err)
	return Texts(changes)
}

// same fails the test if a plan is needed to turn have into want, and prints the
// plan.
func same(t testing.TB, want, have *Table) {
	t.Helper()
	if p := Plan(testID(), want, have); len(p.Ops) > 0 {
		t.Errorf("not as wanted: %q", Texts(p.Changes))
	}
}

func rangeOf(set, first, last string) Element {
	return Element{Set: set, Key: string(netip.MustParseAddr(first).AsSlice()), Last: string(netip.MustParseAddr(last).AsSlice())}
}

// full is a table with one of everything.
func full() *Table {
	v4, v6 := family.IPv4, family.IPv6
	port := func(p byte) []byte { return []byte{0, p} }
	return &Table{
		Sets: []Set{
			NewSet("bridges", IfName),
			NewIntervals("own4", Addr(v4)),
			NewIntervals("own6", Addr(v6)),
			NewSet("pairs6", Concat(Addr(v6), Addr(v6))),
			NewMap("ports4", Concat(Protocol, Port), Concat(Addr(v4), Port)),
			NewMap("bound6", Concat(Protocol, Addr(v6), Port), Concat(Addr(v6), Port)),
		},
		Chains: []Chain{
			{Name: "postrouting", Hook: Hook{"nat", unix.NF_INET_POST_ROUTING, PrioritySrcNAT, Accept}, Rules: []Rule{
				NewRule("masquerade", IsFamily(v4), Source(v4, 4).In("own4"), Destination(v4, 4).NotIn("own4"), OutName().IsNot(PadName("cni0")...), Masquerade()),
				NewRule("hairpin", IsFamily(v6), Source(v6, 16).And(Destination(v6, 16)).In("pairs6"), Masquerade()),
			}},
			{Name: "prerouting", Hook: Hook{"nat", unix.NF_INET_PRE_ROUTING, PriorityDstNAT, Accept}, Rules: []Rule{
				NewRule("ports", IsFamily(v4), L4Proto().And(DestinationPort()).Find("ports4"), IsLocal(), DNAT(v4)),
				NewRule("bound", IsFamily(v6), Source(v6, 16).IsNot(netip.IPv6Loopback().AsSlice()...),
					L4Proto().And(Destination(v6, 16), DestinationPort()).Find("bound6"), IsLocal(), DNAT(v6)),
			}},
			{Name: "output", Hook: Hook{"filter", unix.NF_INET_LOCAL_OUT, PriorityFilter, Accept}, Rules: []Rule{
				NewRule("redirects", IsFamily(v4), L4Proto().Is(unix.IPPROTO_ICMP), ICMPType().Is(5), OutName().In("bridges"), Drop.Exprs()),
				NewRule("", Counter(), Jump("extra").Exprs()),
			}},
			{Name: "extra", Rules: []Rule{
				NewRule("localhost", IsFamily(v4), Source(v4, 1).Is(127), InName().In("bridges"), Accept.Exprs()),
			}},
		},
		Elements: []Element{
			{Set: "bridges", Key: string(PadName("cni0"))},
			rangeOf("own4", "10.244.0.0", "10.244.3.255"),
			rangeOf("own4", "10.244.9.0", "10.244.9.0"),
			rangeOf("own4", "0.0.0.0", "1.255.255.255"),
			rangeOf("own4", "224.0.0.0", "255.255.255.255"),
			rangeOf("own6", "fd00::", "fd00::ffff"),
			{Set: "pairs6", Key: Fields(netip.MustParseAddr("fd00::1").AsSlice(), netip.MustParseAddr("fd00::1").AsSlice())},
			{Set: "ports4", Key: Fields([]byte{unix.IPPROTO_TCP}, port(80)), Data: Fields([]byte{10, 244, 1, 2}, port(81))},
			{Set: "bound6", Key: Fields([]byte{unix.IPPROTO_UDP}, netip.MustParseAddr("2001:db8::1").AsSlice(), port(53)),
				Data: Fields(netip.MustParseAddr("fd00::1").AsSlice(), port(54))},
		},
	}
}

// random is a part of the full table, with some of its elements, rules and sets
// altered. Sets and chains that its rules use are always there.
func random(r *rand.Rand) *Table {
	if r.IntN(10) == 0 {
		return nil
	}
	t := full()
	keep := func() bool { return r.IntN(5) > 0 }
	t.Elements = slices.DeleteFunc(t.Elements, func(Element) bool { return !keep() })
	for i := range t.Chains {
		c := &t.Chains[i]
		c.Rules = slices.DeleteFunc(c.Rules, func(r Rule) bool { return !keep() })
		if len(c.Rules) == 2 && !keep() {
			c.Rules[0], c.Rules[1] = c.Rules[1], c.Rules[0]
		}
		if c.Hook.Type == "filter" && !keep() {
			c.Hook.Policy = Drop
		}
		if c.Hook.Type == "filter" && !keep() {
			c.Hook.Priority = -7
		}
	}
	if !keep() {
		t.redefine("bridges", NewSet("bridges", Concat(Addr(family.IPv6))))
	}
	if !keep() {
		t.redefine("own4", NewSet("own4", Addr(family.IPv4)))
	}
	for i := range 4 {
		if !keep() {
			name := "range" + string(rune('a'+i))
			t.Sets = append(t.Sets, NewIntervals(name, Addr(family.IPv4)))
			t.Elements = append(t.Elements, rangeOf(name, "10.0.0.0", netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(3)), 255}).String()))
		}
	}
	if !keep() {
		t.Chains = slices.Insert(t.Chains, r.IntN(len(t.Chains)), Chain{Name: "another", Rules: []Rule{NewRule("x", Accept.Exprs())}})
	}
	return t
}

// redefine gives a set another definition, and no elements.
func (t *Table) redefine(name string, s Set) {
	t.Sets[slices.IndexFunc(t.Sets, func(s Set) bool { return s.Name == name })] = s
	t.Elements = slices.DeleteFunc(t.Elements, func(e Element) bool { return e.Set == name })
}
