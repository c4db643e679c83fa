package iptables

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// base reads a built-in chain from words: jump is right, odd is stray, drop is
// final, and anything else is foreign.
func base(words string) []BaseRule {
	kinds := map[string]Kind{"jump": Right, "odd": Stray, "drop": Final}
	var rules []BaseRule
	for i, word := range strings.Fields(words) {
		rules = append(rules, BaseRule{Kind: kinds[word], Text: word, Handle: uint64(i + 1)})
	}
	return rules
}

func wordsOf(rules []BaseRule) string {
	var words []string
	for _, r := range rules {
		words = append(words, r.Text)
	}
	return strings.Join(words, " ")
}

// carriedOut is what a kernel makes of a plan.
func carriedOut(have Table, ops []Op) Table {
	for _, op := range ops {
		switch op := op.(type) {
		case Fill:
			have.Chain, have.Rules = true, op.Chain.texts()
		case Jump:
			have.Base = remaining(have.Base, op.Remove)
			at := len(have.Base)
			if op.Number > 0 {
				at = op.Number - 1
			}
			have.Base = slices.Insert(have.Base, at, BaseRule{Kind: Right, Text: "jump", Handle: 99})
		case Remove:
			have.Base = remaining(have.Base, op.Jumps)
			have.Chain, have.Rules = false, nil
		}
	}
	return have
}

func remaining(rules, drop []BaseRule) []BaseRule {
	return slices.DeleteFunc(slices.Clone(rules), func(r BaseRule) bool { return slices.Contains(drop, r) })
}

func TestPlaceOfTheJump(t *testing.T) {
	for _, tc := range []struct {
		name        string
		first       bool
		have, after string
	}{
		{"nothing there", false, "", "jump"},
		{"right", false, "a b jump", "a b jump"},
		{"missing", false, "a b", "a b jump"},
		{"before a drop", false, "a drop", "a jump drop"},
		{"before the first of two", false, "a drop b drop", "a jump drop b drop"},
		{"never reached", false, "a drop jump", "a jump drop"},
		{"too early", false, "jump a", "a jump"},
		{"too early, with a drop", false, "jump a drop b", "a jump drop b"},
		{"twice", false, "a jump jump", "a jump"},
		{"twice, one too early", false, "jump a jump", "a jump"},
		{"three times around a drop", false, "jump a jump drop jump", "a jump drop"},
		{"with conditions", false, "odd a", "a jump"},
		{"with and without conditions", false, "odd a jump", "a jump"},
		{"first, nothing there", true, "", "jump"},
		{"first, missing", true, "a drop", "jump a drop"},
		{"first, another one was quicker", true, "a jump", "a jump"},
		{"first, never reached", true, "a drop jump", "jump a drop"},
		{"first, twice", true, "jump a jump", "jump a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := Chain{Spot: Spot{First: tc.first}, Rules: []Rule{{Target: "ACCEPT"}}}
			have := Table{Present: true, Chain: true, Rules: want.texts(), Base: base(tc.have)}
			ops := Plan(want, have)
			if got := wordsOf(carriedOut(have, ops).Base); got != tc.after {
				t.Errorf("got %q, want %q", got, tc.after)
			}
			if (len(ops) == 0) != (tc.have == tc.after) {
				t.Errorf("planned %v", ops)
			}
		})
	}
}

func TestPlanOfTheChain(t *testing.T) {
	want := Chain{Spot: forward(), Rules: []Rule{{In: "cni0", Target: "ACCEPT"}, {Out: "cni0", Target: "ACCEPT"}}}
	none := Chain{Spot: forward()}
	right := []string{"-i cni0 -j ACCEPT", "-o cni0 -j ACCEPT"}
	for _, tc := range []struct {
		name string
		want Chain
		have Table
		ops  []string
	}{
		{"no table", want, Table{}, nil},
		{"no table, not wanted", none, Table{}, nil},
		{"not there, not wanted", none, Table{Present: true, Base: base("a drop")}, nil},
		{"missing", want, Table{Present: true}, []string{
			"table filter: chain OVERLAY-CNI-FWD filled with 2 rules: it was missing",
			"table filter: jump from FORWARD to OVERLAY-CNI-FWD put at the end: it was missing",
		}},
		{"right", want, Table{Present: true, Chain: true, Rules: right, Base: base("jump")}, nil},
		{"emptied", want, Table{Present: true, Chain: true, Base: base("jump")}, []string{
			"table filter: chain OVERLAY-CNI-FWD filled with 2 rules: it had the rules []",
		}},
		{"a rule too many", want, Table{Present: true, Chain: true, Rules: append([]string{"-j DROP"}, right...), Base: base("jump")}, []string{
			`table filter: chain OVERLAY-CNI-FWD filled with 2 rules: it had the rules ["-j DROP" "-i cni0 -j ACCEPT" "-o cni0 -j ACCEPT"]`,
		}},
		{"no jump", want, Table{Present: true, Chain: true, Rules: right, Base: base("a drop")}, []string{
			"table filter: jump from FORWARD to OVERLAY-CNI-FWD put before rule 2: it was missing",
		}},
		{"not wanted", none, Table{Present: true, Chain: true, Rules: right, Base: base("jump a odd")}, []string{
			"table filter: chain OVERLAY-CNI-FWD and 2 jumps to it removed",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, op := range Plan(tc.want, tc.have) {
				got = append(got, op.String())
			}
			if diff := cmp.Diff(tc.ops, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever there is: after a plan there is nothing left to plan, and other
// programs' rules are as they were.
func TestPlanSettles(t *testing.T) {
	words := []string{"a", "b", "drop", "jump", "odd"}
	foreign := func(rules []BaseRule) string {
		_, others := split(rules)
		return wordsOf(others)
	}
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 2))
		var chain []string
		for range random.IntN(8) {
			chain = append(chain, words[random.IntN(len(words))])
		}
		have := Table{Present: true, Chain: random.IntN(2) == 0, Base: base(strings.Join(chain, " "))}
		want := Chain{Spot: Spot{First: random.IntN(2) == 0}}
		if random.IntN(4) > 0 {
			want.Rules = []Rule{{Target: "ACCEPT"}}
		}
		after := carriedOut(have, Plan(want, have))
		if again := Plan(want, after); len(again) > 0 {
			t.Fatalf("seed %d: after a plan for %q there is %v to do", seed, wordsOf(have.Base), again)
		}
		if foreign(have.Base) != foreign(after.Base) {
			t.Fatalf("seed %d: %q became %q", seed, wordsOf(have.Base), wordsOf(after.Base))
		}
	}
}
