package kube

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// set makes of the records of all nodes a set without contradictions. Where
// two nodes claim the same part of the address space, the later one by name is
// refused, as everywhere; it comes in when the other one is gone.
//
// Changes are collected and taken over when somebody asks, so that a burst of
// them costs little more than one. One change costs the search for its claims
// and a copy of the slice, which at 5,000 nodes takes some ten microseconds.
type set struct {
	records map[string]record
	// errs are those of the records; refused, why nodes contradict others.
	errs, refused map[string]error
	// claims says for all address space of admitted nodes whose it is.
	claims  bart.Table[string]
	pending map[string]bool

	admitted []registry.Node // by name; replaced and never changed
	err      error
}

func newSet() *set {
	return &set{
		records: map[string]record{}, errs: map[string]error{}, refused: map[string]error{},
		pending: map[string]bool{}, admitted: []registry.Node{},
	}
}

// put takes over a record, and says whether it is news.
func (s *set) put(r record) bool {
	name := r.node.Name
	if old, ok := s.records[name]; ok && old.equal(r) {
		return false
	}
	s.records[name] = r
	delete(s.errs, name)
	if r.err != nil {
		s.errs[name] = r.err
	}
	s.pending[name] = true
	return true
}

// remove forgets a node, and says whether it was known.
func (s *set) remove(name string) bool {
	if _, ok := s.records[name]; !ok {
		return false
	}
	delete(s.records, name)
	delete(s.errs, name)
	s.pending[name] = true
	return true
}

// replace makes records the whole set, and says whether that is news.
func (s *set) replace(records []record) bool {
	news := false
	names := make(map[string]bool, len(records))
	for _, r := range records {
		names[r.node.Name] = true
		news = s.put(r) || news
	}
	for name := range s.records {
		if !names[name] {
			news = s.remove(name) || news
		}
	}
	return news
}

// nodes returns the set, and what is wrong with the nodes that are not in it.
func (s *set) nodes() ([]registry.Node, error) {
	if len(s.pending) == 0 {
		return s.admitted, s.err
	}
	// Who may come in where somebody was refused depends on all of them. That
	// should not last; until it is mended a change costs some milliseconds.
	if len(s.refused) > 0 || len(s.pending) > len(s.records)/8 || !s.amend() {
		s.rebuild()
	}
	clear(s.pending)
	s.err = s.problems()
	return s.admitted, s.err
}

// amend takes over the pending changes alone. It gives up, with the claims in
// disorder, if they contradict other nodes.
func (s *set) amend() bool {
	for name := range s.pending {
		if i, found := s.find(name); found {
			s.release(s.admitted[i])
		}
	}
	for name := range s.pending {
		if r, ok := s.records[name]; ok && !r.out && !s.claim(r.node) {
			return false
		}
	}
	s.admitted = slices.Clone(s.admitted)
	for name := range s.pending {
		i, found := s.find(name)
		r, listed := s.records[name]
		listed = listed && !r.out
		switch {
		case found && listed:
			s.admitted[i] = r.node
		case found:
			s.admitted = slices.Delete(s.admitted, i, i+1)
		case listed:
			s.admitted = slices.Insert(s.admitted, i, r.node)
		}
	}
	return true
}

// rebuild begins anew, in the order of names.
func (s *set) rebuild() {
	s.claims = bart.Table[string]{}
	clear(s.refused)
	s.admitted = make([]registry.Node, 0, len(s.records))
	for _, name := range slices.Sorted(maps.Keys(s.records)) {
		r := s.records[name]
		switch {
		case r.out:
		case s.claim(r.node):
			s.admitted = append(s.admitted, r.node)
		default:
			s.refused[name] = s.contradiction(r.node)
		}
	}
}

// claim gives a node its address space if nobody has any of it.
func (s *set) claim(n registry.Node) bool {
	spans := spansOf(n)
	if slices.ContainsFunc(spans, s.claims.OverlapsPrefix) {
		return false
	}
	for _, span := range spans {
		s.claims.Insert(span, n.Name)
	}
	return true
}

func (s *set) release(n registry.Node) {
	for _, span := range spansOf(n) {
		s.claims.Delete(span)
	}
}

// spansOf is all address space that only this node may have.
func spansOf(n registry.Node) []netip.Prefix {
	spans := slices.Clone(n.Subnets)
	for _, a := range n.Addresses {
		spans = append(spans, subnet.Host(a))
	}
	return spans
}

// contradiction says with which admitted node, the first of them, n can't be.
func (s *set) contradiction(n registry.Node) error {
	other := ""
	for _, span := range spansOf(n) {
		for _, owners := range []func(func(netip.Prefix, string) bool){s.claims.Supernets(span), s.claims.Subnets(span)} {
			for _, name := range owners {
				if other == "" || name < other {
					other = name
				}
			}
		}
	}
	return registry.Validate([]registry.Node{s.records[other].node, n})
}

func (s *set) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.admitted, name, func(n registry.Node, name string) int { return strings.Compare(n.Name, name) })
}

// problems joins what is wrong, by the names of the nodes.
func (s *set) problems() error {
	type problem struct {
		name string
		err  error
	}
	var all []problem
	for _, errs := range []map[string]error{s.errs, s.refused} {
		for name, err := range errs {
			all = append(all, problem{name, err})
		}
	}
	slices.SortFunc(all, func(a, b problem) int { return cmp.Compare(a.name, b.name) })
	errs := make([]error, len(all))
	for i, p := range all {
		errs[i] = p.err
	}
	return registry.Summary(errs)
}
