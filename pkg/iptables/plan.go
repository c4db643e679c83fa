package iptables

import (
	"fmt"
	"slices"
)

// Table is what one kind of iptables has in table filter of one family. The zero
// Table stands for a host without that table.
type Table struct {
	Present bool
	// Chain says whether our chain exists. Rules are the rules in it, as iptables -S
	// lists them.
	Chain bool
	Rules []string
	// Forward are the rules of FORWARD.
	Forward []BaseRule
}

// BaseRule is a rule of FORWARD.
type BaseRule struct {
	Kind Kind
	// Text is what iptables -S lists: iptables-legacy deletes a rule by it.
	Text string
	// Handle is the number that nf_tables gives a rule for its life.
	Handle uint64
}

// Kind says what a rule of FORWARD means to us.
type Kind int

const (
	// Unmanaged rules belong to other programs.
	Unmanaged Kind = iota
	// Final rules belong to other programs too. No packet gets past them.
	Final
	// Jump is our jump as it should be.
	Jump
	// WrongJump leads to our chain with a condition, or by a goto.
	WrongJump
)

// ours reports whether the rule is ours: only our rules lead to our chain.
func (r BaseRule) ours() bool { return r.Kind == Jump || r.Kind == WrongJump }

// Op is one step from what a kernel has to what it should have: Fill, PutJump or
// Remove. Its text is for the log.
type Op interface{ fmt.Stringer }

// Fill gives our chain its rules, and makes the chain where it is missing.
type Fill struct {
	Rules []Rule
	Why   string
}

// PutJump replaces all jumps to our chain by one in the right place.
type PutJump struct {
	// Remove are the rules that lead to our chain now.
	Remove []BaseRule
	// Number is the jump's position in FORWARD, from 1, after Remove were deleted.
	// Before is the rule that has this position before the jump is inserted. 0 puts
	// the jump at the end.
	Number int
	Before BaseRule
	Why    string
}

// Remove deletes the jumps, and our chain if there is one.
type Remove struct {
	Jumps []BaseRule
	Chain bool
}

// Plan lists the operations that give our chain the wanted rules. They belong
// into one transaction: then no packet meets a chain that is half filled, or
// FORWARD without the jump.
func Plan(want []Rule, have Table) []Op {
	if !have.Present {
		return nil
	}
	jumps, others := split(have.Forward)
	if len(want) == 0 {
		if !have.Chain && len(jumps) == 0 {
			return nil
		}
		return []Op{Remove{Jumps: jumps, Chain: have.Chain}}
	}
	var ops []Op
	if why := misfilled(want, have); why != "" {
		ops = append(ops, Fill{Rules: want, Why: why})
	}
	if why := misplaced(have.Forward); why != "" {
		put := PutJump{Remove: jumps, Why: why}
		if i := end(others); i < len(others) {
			put.Before, put.Number = others[i], i+1
		}
		ops = append(ops, put)
	}
	return ops
}

// split separates the rules that lead to our chain from the others.
func split(forward []BaseRule) (jumps, others []BaseRule) {
	for _, r := range forward {
		if r.ours() {
			jumps = append(jumps, r)
		} else {
			others = append(others, r)
		}
	}
	return jumps, others
}

// end returns the index of the first final rule, or the number of rules.
func end(rules []BaseRule) int {
	if i := slices.IndexFunc(rules, func(r BaseRule) bool { return r.Kind == Final }); i >= 0 {
		return i
	}
	return len(rules)
}

// misfilled says what is wrong with our chain, or returns "".
func misfilled(want []Rule, have Table) string {
	switch {
	case !have.Chain:
		return "the chain was missing"
	case !slices.Equal(have.Rules, texts(want)):
		return fmt.Sprintf("the chain had the rules %q", have.Rules)
	}
	return ""
}

// misplaced says what is wrong with the jump to our chain, or returns "". It is also
// wrong if other rules follow the jump, because they would not see pods' packets.
func misplaced(forward []BaseRule) string {
	jumps, others := split(forward)
	switch {
	case len(jumps) == 0:
		return "the jump was missing"
	case len(jumps) > 1:
		return fmt.Sprintf("there were %d jumps", len(jumps))
	case jumps[0].Kind != Jump:
		return "the jump had conditions"
	}
	switch at := slices.Index(forward, jumps[0]); {
	case at > end(others):
		return "no packet reached the jump"
	case at < end(others):
		return "the jump stood before other rules"
	}
	return ""
}

// String says what the operation does and why.
func (f Fill) String() string {
	return fmt.Sprintf("chain %s filled with %s: %s", ourChain, count(len(f.Rules), "rule"), f.Why)
}

// String says what the operation does and why.
func (p PutJump) String() string {
	where := "at the end"
	if p.Number > 0 {
		where = fmt.Sprintf("before rule %d", p.Number)
	}
	return fmt.Sprintf("jump from %s to %s put %s: %s", forwardChain, ourChain, where, p.Why)
}

// String says what the operation does.
func (r Remove) String() string {
	if !r.Chain {
		return fmt.Sprintf("%s to chain %s removed", count(len(r.Jumps), "jump"), ourChain)
	}
	return fmt.Sprintf("chain %s and %s to it removed", ourChain, count(len(r.Jumps), "jump"))
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
