package etcd

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// set is the node keys of etcd, and what follows from them.
type set struct {
	entries []entry          // sorted by name
	broken  map[string]error // values that can't be read, by node name
	// nodes and err are what follows; they are computed when asked for, since
	// many changes come together.
	nodes []registry.Node
	err   error
	stale bool
}

func newSet() *set {
	return &set{broken: map[string]error{}, stale: true}
}

// find returns where the entry of that name is, or would be.
func (s *set) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.entries, name, func(e entry, name string) int { return cmp.Compare(e.name, name) })
}

// put takes over a key. A value that can't be read leaves what was known of the
// node before. It reports whether the nodes or the error may differ now.
func (s *set) put(e entry, err error) bool {
	name := e.name
	before := s.broken[name]
	if err != nil {
		s.broken[name] = err
		s.stale = s.stale || before == nil || before.Error() != err.Error()
		return s.stale
	}
	delete(s.broken, name)
	i, known := s.find(name)
	if known {
		s.stale = s.stale || before != nil || !s.entries[i].sameNode(e)
		s.entries[i] = e
	} else {
		s.stale = true
		s.entries = slices.Insert(s.entries, i, e)
	}
	return s.stale
}

// remove is put for a key that is gone.
func (s *set) remove(name string) bool {
	if i, known := s.find(name); known {
		s.stale = true
		s.entries = slices.Delete(s.entries, i, i+1)
	}
	if _, broken := s.broken[name]; broken {
		s.stale = true
		delete(s.broken, name)
	}
	return s.stale
}

// result returns the nodes, sorted by name, and what is wrong with those that
// are left out. The slice is never changed later.
func (s *set) result() ([]registry.Node, error) {
	if s.stale {
		s.nodes, s.err = s.compute()
		s.stale = false
	}
	return s.nodes, s.err
}

func (s *set) compute() ([]registry.Node, error) {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.broken)) {
		errs = append(errs, s.broken[name])
	}
	all := nodesOf(s.entries)
	if problems := registry.Problems(all); len(problems) > 0 {
		for _, p := range problems {
			errs = append(errs, p)
		}
		all = nodesOf(agreeing(s.entries))
	}
	if len(errs) == 0 {
		return all, nil
	}
	return all, fmt.Errorf("some nodes are left out or as they were: %w", registry.Summary(errs))
}

func nodesOf(entries []entry) []registry.Node {
	nodes := make([]registry.Node, len(entries))
	for i, e := range entries {
		nodes[i] = e.node()
	}
	return nodes
}

// agreeing leaves out entries until the others don't contradict each other. One
// bad host must not cost the others their network. Of two that claim the same
// thing the one written later stays: where a host was installed anew with
// another name, the entry with its old name is there until the lease ends.
func agreeing(entries []entry) []entry {
	byAge := slices.SortedFunc(slices.Values(entries), func(a, b entry) int { return cmp.Compare(b.modified, a.modified) })
	for {
		nodes := nodesOf(byAge)
		for i := range nodes {
			if registry.CheckName(nodes[i].Name) == nil {
				// Problems blames the one that comes later by name.
				nodes[i].Name = fmt.Sprintf("%012d", i)
			}
		}
		problems := registry.Problems(nodes)
		if len(problems) == 0 {
			break
		}
		blamed := map[string]bool{}
		for _, p := range problems {
			blamed[byAge[p.Node].name] = true
		}
		byAge = slices.DeleteFunc(byAge, func(e entry) bool { return blamed[e.name] })
	}
	slices.SortFunc(byAge, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	return byAge
}

// keyError says which key an error is about, and what to do with it.
func keyError(key string, err error) error {
	return fmt.Errorf("%s in etcd: %w: delete the key (its host writes it again), or mend it", key, err)
}
