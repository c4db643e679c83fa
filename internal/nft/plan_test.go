package nft

import (
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// apply does what the kernel does with operations, by decoding their messages.
func apply(t testing.TB, have *Table, ops []Op) *Table {
	t.Helper()
	for _, o := range ops {
		a := o.attrs
		switch {
		case o.typ == unix.NFT_MSG_DELTABLE:
			have = nil
		case o.typ == unix.NFT_MSG_NEWTABLE && have == nil:
			have = &Table{Flags: a.Get(unix.NFTA_TABLE_FLAGS).Uint32BE()}
		case have == nil:
			t.Fatalf("%s: there is no table", o)
		default:
			have.apply(t, o)
		}
	}
	return have
}

func (have *Table) apply(t testing.TB, o Op) {
	t.Helper()
	a := o.attrs
	chain := a.Get(unix.NFTA_CHAIN_NAME).Text() // NFTA_RULE_CHAIN is another number
	set := a.Get(unix.NFTA_SET_NAME).Text()     // NFTA_SET_ELEM_LIST_SET is the same
	switch o.typ {
	case unix.NFT_MSG_NEWCHAIN:
		c, _ := decodeChain(a)
		if h := find(have.Chains, func(h Chain) bool { return h.Name == chain }); h != nil {
			if !h.Hook.samePlace(c.Hook) {
				t.Fatalf("%s: it has another hook", o)
			}
			h.Hook = c.Hook
			return
		}
		have.Chains = append(have.Chains, c)
	case unix.NFT_MSG_DELCHAIN:
		if len(have.chain(t, chain).Rules) > 0 {
			t.Fatalf("%s: it has rules", o)
		}
		have.Chains = slices.DeleteFunc(have.Chains, func(c Chain) bool { return c.Name == chain })
	case unix.NFT_MSG_DELRULE:
		have.chain(t, a.Get(unix.NFTA_RULE_CHAIN).Text()).Rules = nil
	case unix.NFT_MSG_NEWRULE:
		r := decodeRule(a)
		for _, name := range setsOf(r) {
			have.set(t, name)
		}
		c := have.chain(t, a.Get(unix.NFTA_RULE_CHAIN).Text())
		c.Rules = append(c.Rules, r)
	case unix.NFT_MSG_NEWSET:
		s, _ := decodeSet(a)
		if find(have.Sets, func(h Set) bool { return h.Name == set }) != nil {
			t.Fatalf("%s: it is there", o)
		}
		have.Sets = append(have.Sets, s)
	case unix.NFT_MSG_DELSET:
		have.deleteSet(t, o, set)
	case unix.NFT_MSG_NEWSETELEM:
		for _, e := range elementsOf(have.set(t, set), decodeBoundaries(a)) {
			if find(have.Elements, func(h Element) bool { return h.Set == e.Set && h.Key == e.Key }) != nil {
				t.Fatalf("%s: %v is there", o, e)
			}
			have.Elements = append(have.Elements, e)
		}
	case unix.NFT_MSG_DELSETELEM:
		gone := elementsOf(have.set(t, set), decodeBoundaries(a))
		have.Elements = slices.DeleteFunc(have.Elements, func(h Element) bool {
			return h.Set == set && (len(gone) == 0 || find(gone, func(e Element) bool { return e.Key == h.Key && e.Last == h.Last }) != nil)
		})
	}
}

func (have *Table) chain(t testing.TB, name string) *Chain {
	c := find(have.Chains, func(c Chain) bool { return c.Name == name })
	if c == nil {
		t.Fatalf("there is no chain %s", name)
	}
	return c
}

func (have *Table) set(t testing.TB, name string) Set {
	s := find(have.Sets, func(s Set) bool { return s.Name == name })
	if s == nil {
		t.Fatalf("there is no set %s", name)
	}
	return *s
}

func (have *Table) deleteSet(t testing.TB, o Op, name string) {
	have.set(t, name)
	for _, c := range have.Chains {
		for _, r := range c.Rules {
			if slices.Contains(setsOf(r), name) {
				t.Fatalf("%s: a rule of chain %s uses it", o, c.Name)
			}
		}
	}
	have.Sets = slices.DeleteFunc(have.Sets, func(s Set) bool { return s.Name == name })
	have.Elements = slices.DeleteFunc(have.Elements, func(e Element) bool { return e.Set == name })
}

func setsOf(r Rule) []string {
	var names []string
	for _, e := range r.Exprs {
		if e.Name == "lookup" {
			names = append(names, e.Data.Get(unix.NFTA_LOOKUP_SET).Text())
		}
	}
	return names
}

// A plan turns any table into any other, and then there is nothing to do.
func TestPlanSettles(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var have *Table
	for range 2000 {
		want := random(r)
		have = apply(t, have, Plan(testID(), want, have).Ops)
		if again := Plan(testID(), want, have); len(again.Ops)+len(again.Changes) > 0 {
			t.Fatalf("another plan changes %q", Texts(again.Changes))
		}
	}
}

// A rule that differs in one instruction, or in its comment, is another rule.
func TestEveryInstructionCounts(t *testing.T) {
	for _, c := range full().Chains {
		for _, r := range c.Rules {
			if r.Equal(Rule{Comment: r.Comment + "x", Exprs: r.Exprs}) {
				t.Errorf("chain %s, rule %q: the comment can be altered unseen", c.Name, r.Comment)
			}
			for i := range r.Exprs {
				other := Rule{Comment: r.Comment, Exprs: slices.Clone(r.Exprs)}
				other.Exprs[i] = Meta(unix.NFT_META_LEN, 4)[0].load(9)
				if r.Equal(other) {
					t.Errorf("chain %s, rule %q: instruction %d can be altered unseen", c.Name, r.Comment, i+1)
				}
			}
		}
	}
}

func TestFieldsAndSplit(t *testing.T) {
	s := Fields([]byte{1}, []byte{2, 3, 4, 5}, []byte{6, 7})
	if s != "\x01\x00\x00\x00\x02\x03\x04\x05\x06\x07\x00\x00" {
		t.Errorf("fields %x", s)
	}
	if f := Split(s, 1, 4, 2); len(f) != 3 || f[0][0] != 1 || f[2][1] != 7 {
		t.Errorf("split into %x", f)
	}
	for _, wrong := range []string{"", s[1:], s + "\x00"} {
		if f := Split(wrong, 1, 4, 2); f != nil {
			t.Errorf("%x split into %x", wrong, f)
		}
	}
}

// FuzzDecode gives the decoder anything. The decoded elements can be encoded and
// compared.
func FuzzDecode(f *testing.F) {
	for _, o := range Plan(testID(), full(), nil).Ops {
		f.Add([]byte(o.attrs))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a := nl.Attrs(data)
		r := decodeRule(a)
		_ = r.Equal(full().Chains[0].Rules[0])
		for _, e := range r.Exprs {
			e.Verdict()
		}
		c, _ := decodeChain(a)
		c.Rules = []Rule{r}
		s, _ := decodeSet(a)
		have := &Table{Chains: []Chain{c}, Sets: []Set{s}, Elements: elementsOf(s, decodeBoundaries(a))}
		for _, e := range have.Elements {
			_ = s.Text(e)
			for _, want := range full().Sets {
				_ = want.Text(e)
			}
		}
		Plan(testID(), full(), have)
		Plan(testID(), have, full())
	})
}
