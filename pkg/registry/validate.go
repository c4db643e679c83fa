package registry

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// Problem is one contradiction in a set of nodes.
type Problem struct {
	// Node is the index of the node to look at; where two nodes contradict
	// each other it is the one that comes later by name.
	Node int
	Err  error
}

// Error names the nodes and values and says what would be right.
func (p *Problem) Error() string { return p.Err.Error() }

// Unwrap gives errors.Is and errors.As the error beside its node.
func (p *Problem) Unwrap() error { return p.Err }

// Validate says everything that is wrong with a set of nodes, ordered by the
// names of the nodes, whatever order they are in. It is nil for a set with
// which every node can build the same network.
func Validate(nodes []Node) error {
	problems := Problems(nodes)
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return Summary(errs)
}

// maxShown is how many errors a person reads before mending the first ones. A
// single wrong value in a template makes as many errors as there are nodes.
const maxShown = 20

// Summary joins errors, and only counts those after the first 20.
func Summary(errs []error) error {
	if len(errs) <= maxShown {
		return errors.Join(errs...)
	}
	shown := slices.Clone(errs[:maxShown])
	return errors.Join(append(shown, fmt.Errorf("and %d more", len(errs)-maxShown))...)
}

// maxName is the limit for host names (RFC 1035) and for names in Kubernetes.
const maxName = 253

// CheckName reports why a node can't have this name. Names stand in file
// names, logs and the status of other programs, so they hold nothing that
// needs quoting.
func CheckName(name string) error {
	const allowed = "write 1 to 253 letters, digits, '-', '_' and '.', beginning with a letter or digit"
	switch {
	case name == "":
		return fmt.Errorf("the name is empty: %s", allowed)
	case len(name) > maxName:
		return fmt.Errorf("the name %q... has %d characters: %s", name[:32], len(name), allowed)
	case strings.IndexFunc(name, notInName) >= 0, strings.ContainsRune("-_.", rune(name[0])):
		return fmt.Errorf("%q is not a node name: %s", name, allowed)
	}
	return nil
}

func notInName(r rune) bool {
	isLetter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	isDigit := r >= '0' && r <= '9'
	return !isLetter && !isDigit && !strings.ContainsRune("-_.", r)
}

// CheckAddress reports why the other nodes can't send to a node by this
// address.
func CheckAddress(a netip.Addr) error {
	const fix = "give the address by which the other hosts reach this one"
	switch {
	case !a.IsValid():
		return fmt.Errorf("an address is empty: %s", fix)
	case a.Is4In6():
		return fmt.Errorf("address %s is IPv4 in IPv6 form: write %s", a, a.Unmap())
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("address %s is link-local, so it means something else on every host: %s", a, fix)
	case a.Zone() != "":
		return fmt.Errorf("address %s has a zone: write %s", a, a.WithZone(""))
	case a.IsLoopback():
		return fmt.Errorf("address %s is a loopback address: %s", a, fix)
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("address %s is not one of a single host: %s", a, fix)
	}
	return nil
}

// Problems is Validate for callers that know more about each node, such as its
// line in a file.
func Problems(nodes []Node) []*Problem {
	v := newValidator(nodes)
	for rank := range v.order {
		v.checkName(rank)
		v.checkAddresses(rank)
		v.checkSubnets(rank)
	}
	v.sweep()
	slices.SortStableFunc(v.found, func(a, b finding) int { return cmp.Compare(a.rank, b.rank) })
	problems := make([]*Problem, len(v.found))
	for i, f := range v.found {
		problems[i] = &Problem{Node: v.order[f.rank], Err: f.err}
	}
	return problems
}

// validator looks at nodes by their rank, the place in the order of names, so
// that the same set gives the same text whatever order it comes in.
type validator struct {
	nodes []Node
	order []int // index in nodes, by rank
	found []finding
}

type finding struct {
	rank int
	err  error
}

func newValidator(nodes []Node) *validator {
	v := &validator{nodes: nodes, order: make([]int, len(nodes))}
	for i := range v.order {
		v.order[i] = i
	}
	slices.SortStableFunc(v.order, func(a, b int) int { return cmp.Compare(nodes[a].Name, nodes[b].Name) })
	return v
}

func (v *validator) node(rank int) Node { return v.nodes[v.order[rank]] }

// label names a node in a message.
func (v *validator) label(rank int) string {
	if name := v.node(rank).Name; name != "" {
		return fmt.Sprintf("node %q", name)
	}
	return fmt.Sprintf("number %d of the nodes", v.order[rank]+1)
}

// addf records what is wrong with a node.
func (v *validator) addf(rank int, format string, args ...any) {
	err := fmt.Errorf("%s: %w", v.label(rank), fmt.Errorf(format, args...))
	v.found = append(v.found, finding{rank, err})
}

func (v *validator) checkName(rank int) {
	name := v.node(rank).Name
	if err := CheckName(name); err != nil {
		v.addf(rank, "%w", err)
		return
	}
	if rank > 0 && v.node(rank-1).Name == name {
		v.addf(rank, "the name is given twice, with addresses %v and %v: rename or remove one",
			v.node(rank-1).Addresses, v.node(rank).Addresses)
	}
}

func (v *validator) checkAddresses(rank int) {
	addrs := v.node(rank).Addresses
	if len(addrs) == 0 {
		v.addf(rank, "has no address: give the one by which the other hosts reach it")
	}
	byFamily := map[int]netip.Addr{}
	for _, a := range addrs {
		if err := CheckAddress(a); err != nil {
			v.addf(rank, "%w", err)
			continue
		}
		if first, twice := byFamily[a.BitLen()]; twice {
			v.addf(rank, "addresses %s and %s are of one family: keep one of them", first, a)
			continue
		}
		byFamily[a.BitLen()] = a
	}
}

func (v *validator) checkSubnets(rank int) {
	for _, p := range v.node(rank).Subnets {
		if err := subnet.Check(p); err != nil {
			v.addf(rank, "%w", err)
		}
	}
}
