package iptables

import (
	"fmt"
	"slices"
)

// Table is what a kernel has at the place of a Chain: what is of interest of
// one table. The zero Table is one that is absent.
type Table struct {
	Present bool
	// Chain tells whether there is a chain of ours, and Rules are in it, as
	// iptables -S lists them.
	Chain bool
	Rules []string
	// Base are the rules of the built-in chain.
	Base []BaseRule
}

// BaseRule is a rule of a built-in chain.
type BaseRule struct {
	Kind Kind
	// Text is what iptables -S lists, which is how iptables-legacy finds a rule.
	Text string
	// Handle is the rule's number for its life, which nf_tables gives out.
	Handle uint64
}

// Kind is what a rule of a built-in chain is to us.
type Kind int

const (
	// Foreign rules are another program's.
	Foreign Kind = iota
	// Final rules are another program's too, and no packet gets past them.
	Final
	// Right is our jump as it should be.
	Right
	// Stray leads to our chain too, but not as our jump does.
	Stray
)

// ours tells whether the rule leads to our chain, which nobody else's does.
func (r BaseRule) ours() bool { return r.Kind == Right || r.Kind == Stray }

// Op is one step from what a kernel has to what it should have: Fill, Jump or
// Remove. Its text is for the log.
type Op interface{ fmt.Stringer }

// Fill makes our chain if it is missing, and gives it its rules.
type Fill struct {
	Chain Chain
	Why   string
}

// Jump puts the one jump to our chain into its place.
type Jump struct {
	Spot Spot
	// Remove are the rules that lead to our chain now.
	Remove []BaseRule
	// Before is the rule that the jump goes before, and Number that rule's
	// number once the others are removed, from 1. With 0 the jump goes to the end.
	Before BaseRule
	Number int
	Why    string
}

// Remove deletes the jumps and our chain.
type Remove struct {
	Spot  Spot
	Jumps []BaseRule
	Chain bool
}

// Plan lists the operations that turn have into what want says. They are meant
// for one transaction, so no packet sees a chain that is half filled, or no
// jump between the removal of an old one and the new one.
func Plan(want Chain, have Table) []Op {
	if !have.Present {
		return nil
	}
	jumps, others := split(have.Base)
	if len(want.Rules) == 0 {
		if !have.Chain && len(jumps) == 0 {
			return nil
		}
		return []Op{Remove{Spot: want.Spot, Jumps: jumps, Chain: have.Chain}}
	}
	var ops []Op
	if why := want.unfilled(have); why != "" {
		ops = append(ops, Fill{Chain: want, Why: why})
	}
	if why := want.Spot.misplaced(have.Base); why != "" {
		j := Jump{Spot: want.Spot, Remove: jumps, Why: why}
		if i := want.Spot.index(others); i < len(others) {
			j.Before, j.Number = others[i], i+1
		}
		ops = append(ops, j)
	}
	return ops
}

// split separates the rules that lead to our chain from the others.
func split(base []BaseRule) (jumps, others []BaseRule) {
	for _, r := range base {
		if r.ours() {
			jumps = append(jumps, r)
		} else {
			others = append(others, r)
		}
	}
	return jumps, others
}

// index is where in a built-in chain our jump goes that has the given other
// rules: before the one with this index.
func (s Spot) index(others []BaseRule) int {
	if s.First {
		return 0
	}
	return end(others)
}

// end is the index of the first rule that no packet gets past, or the number
// of rules.
func end(rules []BaseRule) int {
	if i := slices.IndexFunc(rules, func(r BaseRule) bool { return r.Kind == Final }); i >= 0 {
		return i
	}
	return len(rules)
}

// unfilled says what is wrong with our chain, or "".
func (c Chain) unfilled(have Table) string {
	switch {
	case !have.Chain:
		return "it was missing"
	case !slices.Equal(have.Rules, c.texts()):
		return fmt.Sprintf("it had the rules %q", have.Rules)
	}
	return ""
}

func (c Chain) texts() []string {
	texts := make([]string, len(c.Rules))
	for i, r := range c.Rules {
		texts[i] = r.String()
	}
	return texts
}

// misplaced says what is wrong with the jump to our chain, or "".
//
// A jump that belongs at the beginning may stand anywhere it is reached: other
// programs want to be first too, and would be driven out for ever. Behind our
// jump at the end nobody adds rules but by accident.
func (s Spot) misplaced(base []BaseRule) string {
	jumps, others := split(base)
	switch {
	case len(jumps) == 0:
		return "it was missing"
	case len(jumps) > 1:
		return fmt.Sprintf("it was there %d times", len(jumps))
	case jumps[0].Kind != Right:
		return "it had conditions"
	}
	at := slices.Index(base, jumps[0])
	switch {
	case at > end(others):
		return "no packet came to it"
	case !s.First && at < end(others):
		return "it stood before other rules"
	}
	return ""
}

// String tells what the operation does and why.
func (f Fill) String() string {
	return fmt.Sprintf("table %s: chain %s filled with %s: %s", f.Chain.Spot.Table, f.Chain.Spot.Chain,
		count(len(f.Chain.Rules), "rule"), f.Why)
}

// String tells what the operation does and why.
func (j Jump) String() string {
	where := "at the end"
	if j.Number > 0 {
		where = fmt.Sprintf("before rule %d", j.Number)
	}
	return fmt.Sprintf("table %s: jump from %s to %s put %s: %s", j.Spot.Table, j.Spot.Base, j.Spot.Chain, where, j.Why)
}

// String tells what the operation does.
func (r Remove) String() string {
	return fmt.Sprintf("table %s: chain %s and %s to it removed", r.Spot.Table, r.Spot.Chain, count(len(r.Jumps), "jump"))
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
