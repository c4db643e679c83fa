package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// Op is one step from an actual state to the desired one: Rebuild, Remove,
// Change or Refill. Its text is for the log.
type Op interface {
	fmt.Stringer
	stage(*batch) error
}

// Rebuild replaces the whole table, or makes it where there is none.
type Rebuild struct {
	Table State
	// Why lists what differed.
	Why []string
}

// Remove deletes the table. That it may be absent is no error.
type Remove struct{}

// Change adds and deletes elements of one set.
type Change struct {
	Set         string
	Add, Delete []Range
}

// Refill empties one set and fills it anew. It is for sets that hold ends of
// ranges that have no other end: no deletion of ranges would get rid of those.
type Refill struct {
	Set    string
	Ranges []Range
}

// Plan lists the operations that turn have into want. They are meant for one
// transaction, so a packet sees none of the states between.
func Plan(want, have State) []Op {
	switch {
	case !want.Present && !have.Present:
		return nil
	case !want.Present:
		return []Op{Remove{}}
	}
	if why := differences(want, have); len(why) > 0 {
		return []Op{Rebuild{Table: want, Why: why}}
	}
	var ops []Op
	for _, set := range want.Sets {
		ops = append(ops, planElements(set.Name, want.Elements[set.Name], have.Elements[set.Name])...)
	}
	return ops
}

func planElements(set string, want, have Elements) []Op {
	if have.Stray > 0 {
		return []Op{Refill{Set: set, Ranges: want.Ranges}}
	}
	c := Change{
		Set:    set,
		Add:    without(want.Ranges, have.Ranges),
		Delete: without(have.Ranges, want.Ranges),
	}
	if len(c.Add)+len(c.Delete) == 0 {
		return nil
	}
	return []Op{c}
}

// differences says in what the skeletons of two states differ.
func differences(want, have State) []string {
	if !have.Present {
		return []string{"it was missing"}
	}
	var why []string
	if want.Flags != have.Flags {
		why = append(why, fmt.Sprintf("flags %#x instead of %#x", have.Flags, want.Flags))
	}
	why = append(why, sets().compare(want.Sets, have.Sets)...)
	return append(why, chains().compare(want.Chains, have.Chains)...)
}

// named compares lists of things that have names.
type named[T any] struct {
	kind string
	name func(T) string
	// differ says in what two things of one name differ, or "".
	differ func(want, have T) string
}

func sets() named[Set] {
	return named[Set]{kind: "set", name: func(s Set) string { return s.Name }, differ: differSet}
}

func chains() named[Chain] {
	return named[Chain]{kind: "chain", name: func(c Chain) string { return c.Name }, differ: differChain}
}

func (n named[T]) compare(want, have []T) []string {
	var why []string
	for _, w := range want {
		i := n.index(have, n.name(w))
		if i < 0 {
			why = append(why, fmt.Sprintf("%s %s was missing", n.kind, n.name(w)))
		} else if d := n.differ(w, have[i]); d != "" {
			why = append(why, fmt.Sprintf("%s %s has %s", n.kind, n.name(w), d))
		}
	}
	for _, h := range have {
		if n.index(want, n.name(h)) < 0 {
			why = append(why, fmt.Sprintf("%s %s does not belong there", n.kind, n.name(h)))
		}
	}
	return why
}

func (n named[T]) index(things []T, name string) int {
	return slices.IndexFunc(things, func(t T) bool { return n.name(t) == name })
}

func differSet(want, have Set) string {
	if want == have {
		return ""
	}
	return fmt.Sprintf("type %q and flags %q instead of %q and %q", have.Type, have.Flags, want.Type, want.Flags)
}

func differChain(want, have Chain) string {
	if want.Hook != have.Hook {
		return fmt.Sprintf("hook %v instead of %v", have.Hook, want.Hook)
	}
	if len(want.Rules) != len(have.Rules) {
		return fmt.Sprintf("%d rules instead of %d", len(have.Rules), len(want.Rules))
	}
	for i, w := range want.Rules {
		if !w.equal(have.Rules[i]) {
			return fmt.Sprintf("another rule %d: %v", i+1, have.Rules[i])
		}
	}
	return ""
}

func (r Rule) equal(o Rule) bool {
	return r.Comment == o.Comment && slices.Equal(r.Steps, o.Steps)
}

// String tells what the operation does and why.
func (r Rebuild) String() string {
	return fmt.Sprintf("table inet %s rebuilt: %s", TableName, strings.Join(r.Why, "; "))
}

// String tells what the operation does.
func (Remove) String() string { return "table inet " + TableName + " removed" }

// String tells what the operation does.
func (c Change) String() string {
	var did []string
	if len(c.Add) > 0 {
		did = append(did, "added "+listed(c.Add))
	}
	if len(c.Delete) > 0 {
		did = append(did, "removed "+listed(c.Delete))
	}
	return fmt.Sprintf("set %s: %s", c.Set, strings.Join(did, ", "))
}

// String tells what the operation does and why.
func (r Refill) String() string {
	return fmt.Sprintf("set %s: refilled with %s, because it held incomplete ranges", r.Set, listed(r.Ranges))
}

// maxListed is how many ranges a log line names. A node that joins or leaves
// has a subnet or two a family, a first start has thousands.
const maxListed = 4

func listed(ranges []Range) string {
	if len(ranges) > maxListed {
		return fmt.Sprintf("%d ranges", len(ranges))
	}
	names := make([]string, len(ranges))
	for i, r := range ranges {
		names[i] = r.String()
	}
	return strings.Join(names, " ")
}

// String writes a rule for a log line.
func (r Rule) String() string {
	steps := make([]string, len(r.Steps))
	for i, s := range r.Steps {
		steps[i] = s.String()
	}
	return fmt.Sprintf("%s (comment %q)", strings.Join(steps, ", "), r.Comment)
}

// String writes a step for a log line.
func (s Step) String() string {
	switch s.Verb {
	case Equal, Differ:
		return fmt.Sprintf("%s %q", s.Verb, strings.TrimRight(s.Arg, "\x00"))
	case In, NotIn:
		return fmt.Sprintf("%s @%s", s.Verb, s.Arg)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s", s.Verb, s.Arg))
}
