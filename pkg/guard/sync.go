package guard

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// Want is the input from which the desired table follows.
type Want struct {
	// Pods are all attachments that are to be guarded.
	Pods []Pod
	// Leave reports whether a port's elements stay as they are: an ADD or DEL works
	// on the attachment, or nothing usable is known of a port that exists. Sync calls
	// it for ports whose elements differ from Pods.
	Leave func(port string) bool
}

// settled is what the table was made for, as of a generation of the rules. The
// generation is nft.AnyGeneration if nothing is known.
type settled struct {
	generation uint32
	pods       []Pod
}

// Sync makes the table match list and returns its changes. It calls list after the
// table was read, so that a pod that was added meanwhile is known. It reads the table
// only if list, or any rules of the network namespace, changed.
func (k *Kernel) Sync(list func() (Want, error)) ([]string, error) {
	before, err := k.conn.Generation()
	if err != nil {
		return nil, unsupported(err)
	}
	want, err := list()
	if err != nil {
		return nil, err
	}
	now := settled{before, want.Pods}
	if reflect.DeepEqual(now, k.last) {
		return nil, nil
	}
	k.last = settled{}
	all := true
	made, err := k.conn.Sync(Table(), func(have *nft.Table) (*nft.Table, error) {
		want, err := list()
		if err != nil || (have == nil && len(want.Pods) == 0) {
			return nil, err
		}
		var table *nft.Table
		table, all = want.table(have)
		return table, nil
	})
	if err == nil && len(made) == 0 && all {
		k.last = now
	}
	return nft.Texts(made), unsupported(err)
}

// table returns the desired table; have is the kernel's. It also reports whether no
// port's elements were left as they are.
func (w Want) table(have *nft.Table) (*nft.Table, bool) {
	there, unclaimed := byPort(usable(have))
	wanted := map[nft.Element]bool{}
	left := false
	claim := func(elements []nft.Element) {
		for _, e := range elements {
			wanted[e] = true
		}
	}
	for _, p := range w.Pods {
		own := p.elements()
		if !complete(there[p.Port], own) && w.Leave(p.Port) {
			continue // among the ports below
		}
		claim(append(own, p.shared()...))
		delete(there, p.Port)
	}
	for port, elements := range there {
		if w.Leave(port) {
			claim(elements)
			left = true
		}
	}
	if left {
		// Whatever the ports that are left alone share with others stays, too.
		claim(unclaimed)
	}
	want := skeleton()
	for e := range wanted {
		want.Elements = append(want.Elements, e)
	}
	return want, !left
}

// complete reports whether the elements of a port are those of the pod's that have the
// port in their key.
func complete(there, pod []nft.Element) bool {
	n := 0
	for _, e := range pod {
		if portOf(e) == "" {
			continue
		}
		if n++; !slices.Contains(there, e) {
			return false
		}
	}
	return n == len(there)
}

// byPort sorts elements by the port in their key.
func byPort(elements []nft.Element) (ports map[string][]nft.Element, others []nft.Element) {
	ports = map[string][]nft.Element{}
	for _, e := range elements {
		if port := portOf(e); port != "" {
			ports[port] = append(ports[port], e)
		} else {
			others = append(others, e)
		}
	}
	return ports, others
}

// usable returns the elements of the sets whose definition is right.
func usable(have *nft.Table) []nft.Element {
	if have == nil {
		return nil
	}
	right := map[string]bool{}
	for _, s := range sets() {
		right[s.Name] = slices.Contains(have.Sets, s)
	}
	return slices.DeleteFunc(slices.Clone(have.Elements), func(e nft.Element) bool { return !right[e.Set] || e.Key == "" })
}

// Remove deletes the table and returns what it changed.
func (k *Kernel) Remove() ([]string, error) {
	k.last = settled{}
	removed, err := k.conn.Sync(Table(), func(*nft.Table) (*nft.Table, error) { return nil, nil })
	return nft.Texts(removed), unlessUnsupported(err)
}

// Check compares the pod's elements and the table's rules with the kernel. It returns
// a phrase for each difference. A kernel that can't have the table has no difference.
func (k *Kernel) Check(p Pod) ([]string, error) {
	have, _, err := k.conn.Read(Table())
	if err != nil {
		return nil, unlessUnsupported(err)
	}
	if have == nil {
		return []string{Table().String() + " is gone"}, nil
	}
	want := skeleton()
	want.Elements = usable(have)
	var diffs []string
	for _, c := range nft.Plan(Table(), want, have).Changes {
		if c.Why != "" {
			diffs = append(diffs, c.Where+": "+c.Why)
		}
	}
	for _, e := range append(p.elements(), p.shared()...) {
		if !slices.Contains(want.Elements, e) {
			diffs = append(diffs, fmt.Sprintf("%s, %s is gone", Table(), text(e)))
		}
	}
	return diffs, nil
}

// text returns the element with its set.
func text(e nft.Element) string {
	for _, s := range sets() {
		if s.Name == e.Set {
			return s.Title() + ": " + s.Text(e)
		}
	}
	return "set " + e.Set
}
