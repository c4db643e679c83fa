package iprule

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// op is one change: a rule of ours to add or to delete.
type op struct {
	add    *rtnl.Rule
	remove *rtnl.RuleEntry
}

func (o op) String() string {
	if o.add != nil {
		return "add rule " + o.add.String()
	}
	return "delete rule " + o.remove.String()
}

// plan lists the changes of a family's rules. have is in the kernel's order. A rule is
// added before others are deleted.
func plan(f family.Family, networks []network, have []rtnl.RuleEntry) []op {
	after, before, needed := room(networks, have)
	var ops []op
	kept := map[int]bool{}
	if needed {
		for _, n := range networks {
			want := rtnl.Rule{
				Family: f, Priority: before - 1, To: n.to, Action: rtnl.RuleLookup, Table: unix.RT_TABLE_MAIN, MinBits: n.minBits, Protocol: Protocol,
			}
			// A rule with the priority of another comes after it.
			if before <= after+1 {
				want.Priority = after
			}
			at := slices.IndexFunc(have, func(r rtnl.RuleEntry) bool {
				fits := r.Priority == want.Priority || r.Priority > after && r.Priority < before
				return ours(r) && fits && sameBut(r, want)
			})
			if at >= 0 {
				kept[at] = true
			} else {
				ops = append(ops, op{add: &want})
			}
		}
	}
	for i, r := range have {
		if ours(r) && !kept[i] {
			ops = append(ops, op{remove: &have[i]})
		}
	}
	return ops
}

func ours(r rtnl.RuleEntry) bool { return r.Protocol == Protocol }

// sameBut reports whether a rule is as wanted but for its priority.
func sameBut(r rtnl.RuleEntry, want rtnl.Rule) bool {
	want.Priority = r.Priority
	return r.Rule == want && !r.Marked && !r.Bound && !r.VRF && !r.Inverted && !r.More
}

// room says where rules of ours belong: after the one that finds the host's own
// addresses, and before the first that leads pods' packets elsewhere. They aren't
// needed if the table main is asked before such a rule.
func room(networks []network, have []rtnl.RuleEntry) (after, before uint32, needed bool) {
	const standard = 32766 // the priority of the kernel's rule for the table main
	before, needed = standard, len(networks) > 0
	found := false
	for _, r := range have {
		switch {
		case ours(r):
		case plain(r) && r.Table == unix.RT_TABLE_LOCAL:
			after = r.Priority
		case found:
		case plain(r) && r.Table == unix.RT_TABLE_MAIN && takesSubnets(networks, r):
			return after, before, false
		case misleads(networks, r):
			before, found = r.Priority, true
		}
	}
	return after, before, needed
}

// plain reports whether a rule looks a table up for every packet.
func plain(r rtnl.RuleEntry) bool {
	return r.Action == rtnl.RuleLookup && !r.To.IsValid() && !r.From.IsValid() && !r.Marked && !r.Bound && !r.VRF && !r.Inverted && !r.More
}

// takesSubnets reports whether a rule takes the routes to pod subnets.
func takesSubnets(networks []network, r rtnl.RuleEntry) bool {
	return !slices.ContainsFunc(networks, func(n network) bool { return r.MinBits > n.minBits })
}

// misleads reports whether a rule may lead packets to pods into another table than
// main.
func misleads(networks []network, r rtnl.RuleEntry) bool {
	switch {
	case r.Action != rtnl.RuleLookup && r.Action != rtnl.RuleGoto:
		return false // it does nothing, or drops
	case r.Action == rtnl.RuleLookup && (r.Table == unix.RT_TABLE_MAIN || r.Table == unix.RT_TABLE_LOCAL):
		return false
	case r.VRF:
		return false
	case r.Inverted:
		return true
	case r.Marked, r.Bound:
		return false
	}
	return !r.To.IsValid() || slices.ContainsFunc(networks, func(n network) bool { return n.to.Overlaps(r.To) })
}
