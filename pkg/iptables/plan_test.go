package iptables

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// base reads a built-in chain from words: jump is right, odd is a wrong jump,
// drop is final, and anything else is unmanaged.
func base(words string) []BaseRule {
	kinds := map[string]Kind{"jump": Jump, "odd": WrongJump, "drop": Final}
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
			have.Chain, have.Rules = true, texts(op.Rules)
		case PutJump:
			have.Forward = remaining(have.Forward, op.Remove)
			at := len(have.Forward)
			if op.Number > 0 {
				at = op.Number - 1
			}
			have.Forward = slices.Insert(have.Forward, at, BaseRule{Kind: Jump, Text: "jump", Handle: 99})
		case Remove:
			have.Forward = remaining(have.Forward, op.Jumps)
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
		have, after string
	}{
		{"nothing there", "", "jump"},
		{"right", "a b jump", "a b jump"},
		{"missing", "a b", "a b jump"},
		{"before a drop", "a drop", "a jump drop"},
		{"before the first of two", "a drop b drop", "a jump drop b drop"},
		{"never reached", "a drop jump", "a jump drop"},
		{"too early", "jump a", "a jump"},
		{"too early, with a drop", "jump a drop b", "a jump drop b"},
		{"twice", "a jump jump", "a jump"},
		{"twice, one too early", "jump a jump", "a jump"},
		{"three times around a drop", "jump a jump drop jump", "a jump drop"},
		{"with conditions", "odd a", "a jump"},
		{"with and without conditions", "odd a jump", "a jump"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := []Rule{{In: "cni0"}}
			have := Table{Present: true, Chain: true, Rules: texts(want), Forward: base(tc.have)}
			ops := Plan(want, have)
			if got := wordsOf(carriedOut(have, ops).Forward); got != tc.after {
				t.Errorf("got %q, want %q", got, tc.after)
			}
			if (len(ops) == 0) != (tc.have == tc.after) {
				t.Errorf("planned %v", ops)
			}
		})
	}
}

func TestPlanOfTheChain(t *testing.T) {
	want, none := []Rule{{In: "cni0"}, {Out: "cni0"}}, []Rule(nil)
	right := []string{"-i cni0 -j ACCEPT", "-o cni0 -j ACCEPT"}
	for _, tc := range []struct {
		name string
		want []Rule
		have Table
		ops  []string
	}{
		{"no table", want, Table{}, nil},
		{"no table, not wanted", none, Table{}, nil},
		{"not there, not wanted", none, Table{Present: true, Forward: base("a drop")}, nil},
		{"missing", want, Table{Present: true}, []string{
			"chain OVERLAY-CNI-FWD filled with 2 rules: the chain was missing",
			"jump from FORWARD to OVERLAY-CNI-FWD put at the end: the jump was missing",
		}},
		{"right", want, Table{Present: true, Chain: true, Rules: right, Forward: base("jump")}, nil},
		{"emptied", want, Table{Present: true, Chain: true, Forward: base("jump")}, []string{
			"chain OVERLAY-CNI-FWD filled with 2 rules: the chain had the rules []",
		}},
		{"a rule too many", want, Table{Present: true, Chain: true, Rules: append([]string{"-j DROP"}, right...), Forward: base("jump")}, []string{
			`chain OVERLAY-CNI-FWD filled with 2 rules: the chain had the rules ["-j DROP" "-i cni0 -j ACCEPT" "-o cni0 -j ACCEPT"]`,
		}},
		{"no jump", want, Table{Present: true, Chain: true, Rules: right, Forward: base("a drop")}, []string{
			"jump from FORWARD to OVERLAY-CNI-FWD put before rule 2: the jump was missing",
		}},
		{"not wanted", none, Table{Present: true, Chain: true, Rules: right, Forward: base("jump a odd")}, []string{
			"chain OVERLAY-CNI-FWD and 2 jumps to it removed",
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

// For any state of the kernel: a second plan is empty, and other programs' rules are
// unchanged.
func TestPlanSettles(t *testing.T) {
	words := []string{"a", "b", "drop", "jump", "odd"}
	unmanaged := func(rules []BaseRule) string {
		_, others := split(rules)
		return wordsOf(others)
	}
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 2))
		var chain []string
		for range random.IntN(8) {
			chain = append(chain, words[random.IntN(len(words))])
		}
		have := Table{Present: true, Chain: random.IntN(2) == 0, Forward: base(strings.Join(chain, " "))}
		var want []Rule
		if random.IntN(4) > 0 {
			want = []Rule{{In: "cni0"}}
		}
		after := carriedOut(have, Plan(want, have))
		if again := Plan(want, after); len(again) > 0 {
			t.Fatalf("seed %d: after a plan for %q there is %v to do", seed, wordsOf(have.Forward), again)
		}
		if unmanaged(have.Forward) != unmanaged(after.Forward) {
			t.Fatalf("seed %d: %q became %q", seed, wordsOf(have.Forward), wordsOf(after.Forward))
		}
	}
}
