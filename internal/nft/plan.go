package nft

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Transaction is what turns one table into another.
type Transaction struct {
	Ops     []Op
	Changes []Change
}

// Change says what a transaction does, for the log.
type Change struct {
	Where string // "table inet overlay-cni, chain output"
	Did   string // "replaced"
	Why   string // "rule 2 was altered"
}

// String is the change as a phrase.
func (c Change) String() string {
	if c.Why == "" {
		return c.Where + ": " + c.Did
	}
	return fmt.Sprintf("%s: %s (%s)", c.Where, c.Did, c.Why)
}

// Texts are the changes as phrases.
func Texts(changes []Change) []string {
	var texts []string
	for _, c := range changes {
		texts = append(texts, c.String())
	}
	return texts
}

// Reasons why something changes.
const (
	missing  = "was missing"
	altered  = "was altered"
	unwanted = "does not belong there"
)

// Plan returns the transaction that turns have into want. It is empty if they
// are the same.
func Plan(id ID, want, have *Table) Transaction {
	p := planner{id: id}
	switch {
	case want == nil && have == nil:
	case want == nil:
		p.do(dropping, id.DeleteTable())
		p.changed("", "removed", "")
	case have == nil:
		p.make(want, "made", missing)
	case want.Flags != have.Flags:
		p.do(dropping, id.DeleteTable())
		p.make(want, "replaced", "its flags were altered")
	default:
		p.update(want, have)
	}
	return Transaction{slices.Concat(p.phases[:]...), p.changes}
}

// phase orders the operations of a transaction: nothing is deleted that is still
// used, and nothing is used before it is made. Rules use sets and chains, elements
// of verdict maps use chains.
type phase int

const (
	dropping phase = iota // of the table
	flushing              // of chains
	deletingElements
	deletingSets
	deletingChains
	makingTable
	makingSets
	makingChains
	addingElements
	addingRules
	phases
)

type planner struct {
	id      ID
	phases  [phases][]Op
	changes []Change
}

func (p *planner) do(at phase, ops ...Op) { p.phases[at] = append(p.phases[at], ops...) }

func (p *planner) changed(part, did, why string) {
	where := p.id.String()
	if part != "" {
		where += ", " + part
	}
	p.changes = append(p.changes, Change{where, did, why})
}

func (p *planner) make(want *Table, did, why string) {
	p.do(makingTable, p.id.MakeTable(want.Flags))
	p.update(want, &Table{})
	p.changes = nil
	p.changed("", did+" with "+count(len(want.Elements), "element"), why)
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func (p *planner) update(want, have *Table) {
	fresh, replaced := p.updateSets(want.Sets, have.Sets)
	for _, w := range want.Chains {
		p.updateChain(w, find(have.Chains, func(h Chain) bool { return h.Name == w.Name }), replaced)
	}
	for _, h := range have.Chains {
		if find(want.Chains, func(w Chain) bool { return w.Name == h.Name }) == nil {
			p.do(flushing, p.id.FlushChain(h.Name))
			p.do(deletingChains, p.id.DeleteChain(h.Name))
			p.changed("chain "+h.Name, "removed", unwanted)
		}
	}
	wanted, existing := bySet(want.Elements), bySet(have.Elements)
	for _, s := range want.Sets {
		if fresh[s.Name] {
			existing[s.Name] = nil
		}
		p.updateElements(s, wanted[s.Name], existing[s.Name])
	}
}

func find[T any](list []T, is func(T) bool) *T {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return &list[i]
	}
	return nil
}

func bySet(elements []Element) map[string][]Element {
	sets := map[string][]Element{}
	for _, e := range elements {
		sets[e.Set] = append(sets[e.Set], e)
	}
	return sets
}

// updateSets returns the sets that have no elements yet, and whether a set is
// replaced: then all rules that use it have to be replaced, too.
func (p *planner) updateSets(want, have []Set) (fresh map[string]bool, replaced bool) {
	fresh = map[string]bool{}
	for i, w := range want {
		h := find(have, func(h Set) bool { return h.Name == w.Name })
		if h != nil && *h == w {
			continue
		}
		did, why := "made", missing
		if h != nil {
			p.do(deletingSets, p.id.DeleteSet(h.Name))
			did, why, replaced = "replaced", altered, true
		}
		p.do(makingSets, p.id.MakeSet(w, uint32(i+1)))
		p.changed(w.Title(), did, why)
		fresh[w.Name] = true
	}
	for _, h := range have {
		if find(want, func(w Set) bool { return w.Name == h.Name }) == nil {
			p.do(deletingSets, p.id.DeleteSet(h.Name))
			p.changed(h.Title(), "removed", unwanted)
		}
	}
	return fresh, replaced
}

// updateChain makes or refills a chain. The kernel can't give an existing chain
// another hook.
func (p *planner) updateChain(want Chain, have *Chain, setReplaced bool) {
	did, why := "made", missing
	if have != nil {
		did, why = "refilled", want.difference(*have)
		if why == "" && setReplaced {
			why = "a set was replaced"
		}
		if why == "" {
			return
		}
		p.do(flushing, p.id.FlushChain(want.Name))
		if !want.Hook.samePlace(have.Hook) {
			p.do(deletingChains, p.id.DeleteChain(want.Name))
			did = "replaced"
		}
	}
	if have == nil || want.Hook != have.Hook {
		p.do(makingChains, p.id.MakeChain(want))
	}
	for _, r := range want.Rules {
		p.do(addingRules, p.id.AddRule(want.Name, r))
	}
	p.changed("chain "+want.Name, did, why)
}

// samePlace reports whether the hooks differ in the policy only.
func (h Hook) samePlace(o Hook) bool {
	o.Policy = h.Policy
	return h == o
}

// difference says how a chain differs from the wanted one, "" if it doesn't.
func (c Chain) difference(have Chain) string {
	if !c.Hook.samePlace(have.Hook) {
		return "its hook " + altered
	}
	if c.Hook != have.Hook {
		return "its policy " + altered
	}
	for i := range max(len(c.Rules), len(have.Rules)) {
		what := fmt.Sprintf("rule %d ", i+1)
		switch {
		case i >= len(c.Rules):
			return what + unwanted
		case i >= len(have.Rules):
			return what + missing
		case !c.Rules[i].Equal(have.Rules[i]):
			return what + altered
		}
	}
	return ""
}

// updateElements adds and deletes elements. A set of ranges that has unpaired
// boundaries is emptied, because deleting ranges would not delete those
// boundaries.
func (p *planner) updateElements(s Set, want, have []Element) {
	broken := s.intervals() && slices.ContainsFunc(have, func(e Element) bool { return e.Last == "" })
	if broken {
		p.do(deletingElements, p.id.FlushSet(s.Name))
		p.changed(s.Title(), "emptied", "it had incomplete ranges")
		have = nil
	}
	gone, fresh := without(have, want), without(want, have)
	p.do(deletingElements, chunked(gone, p.id.DeleteElements)...)
	p.do(addingElements, chunked(fresh, p.id.AddElements)...)
	if len(gone) > 0 {
		p.changed(s.Title(), "removed "+s.listed(gone), "")
	}
	if len(fresh) > 0 {
		p.changed(s.Title(), "added "+s.listed(fresh), "")
	}
}

// without returns the elements of a that are not in b, in order.
func without(a, b []Element) []Element {
	in := make(map[Element]bool, len(b))
	for _, e := range b {
		in[e] = true
	}
	var rest []Element
	for _, e := range a {
		if !in[e] {
			rest = append(rest, e)
		}
	}
	slices.SortFunc(rest, func(a, b Element) int { return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.Last, b.Last)) })
	return rest
}
