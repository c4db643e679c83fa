package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// Check returns an error if a value of the node is wrong by itself, without looking
// at other nodes. The error names the node and says what would be right.
func Check(n Node) error {
	errs := valueErrors(n)
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("node %q: %w", n.Name, errors.Join(errs...))
}

func valueErrors(n Node) []error {
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	add(CheckName(n.Name))
	for _, p := range n.Subnets {
		add(subnet.Check(p))
	}
	if len(n.Addresses) == 0 {
		add(errors.New("has no address: give the address by which the other hosts reach it"))
	}
	for i, a := range n.Addresses {
		add(CheckAddress(a))
		for _, first := range n.Addresses[:i] {
			if family.Of(first) == family.Of(a) {
				add(fmt.Errorf("addresses %s and %s are of one family: keep one of them", first, a))
			}
		}
	}
	if len(errs) > 0 {
		return errs // overlaps between wrong values mean nothing
	}
	return overlapErrors(n)
}

// overlapErrors says which parts of a node's own address space overlap.
func overlapErrors(n Node) []error {
	var errs []error
	for i, p := range n.Subnets {
		for _, first := range n.Subnets[:i] {
			if first.Overlaps(p) {
				errs = append(errs, fmt.Errorf("pod subnets %s and %s overlap: remove one", first, p))
			}
		}
		for _, a := range n.Addresses {
			if p.Contains(a) {
				errs = append(errs, fmt.Errorf("address %s lies inside pod subnet %s of the same node: give the host an address outside of all pod subnets", a, p))
			}
		}
	}
	return errs
}

// maxShown is how many errors a person reads before fixing the first ones. One
// wrong value in a template makes as many errors as there are nodes.
const maxShown = 20

// Summary joins errors. Of more than 20 it shows the first 20 and counts the
// others. It returns nil if there are none.
func Summary(errs []error) error {
	if len(errs) <= maxShown {
		return errors.Join(errs...)
	}
	shown := slices.Clone(errs[:maxShown])
	return errors.Join(append(shown, fmt.Errorf("and %d more", len(errs)-maxShown))...)
}

// maxName is the limit for host names (RFC 1035) and for names in Kubernetes, in
// bytes.
const maxName = 253

// CheckName returns an error if a node can't have this name. Names appear in file
// names, logs and the status of other programs, so they must need no quoting.
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

// CheckAddress returns an error if other nodes can't reach a node at this address.
func CheckAddress(a netip.Addr) error {
	const fix = "give the address by which the other hosts reach this host"
	switch {
	case !a.IsValid():
		return fmt.Errorf("an address is empty: %s", fix)
	case a.Is4In6():
		return fmt.Errorf("address %s is IPv4 in IPv6 form: write %s", a, a.Unmap())
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("address %s is link-local, which means a different host on every link: %s", a, fix)
	case a.Zone() != "":
		return fmt.Errorf("address %s has a zone: write %s", a, a.WithZone(""))
	case a.IsLoopback():
		return fmt.Errorf("address %s is a loopback address: %s", a, fix)
	}
	if special, inside := subnet.Special(subnet.Host(a)); inside {
		return fmt.Errorf("address %s is not the address of a single host, but in %s: %s", a, special, fix)
	}
	return nil
}
