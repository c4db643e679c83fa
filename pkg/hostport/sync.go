package hostport

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// Want is the input from which the desired table follows.
type Want struct {
	// Bridge is the daemon's own.
	Bridge string
	// Pods are all attachments with mappings, the oldest first.
	Pods []Pod
}

// Sync makes the table match list and returns its changes. It calls list
// after the table was read, and again each time that it has to be read again;
// see the package's description for why this order matters.
func (k *Kernel) Sync(list func() (Want, error)) (changes []string, err error) {
	var want Want
	var before, after *nft.Table
	made, err := k.conn.Sync(table(), func(have *nft.Table) (*nft.Table, error) {
		var err error
		if want, err = list(); err != nil {
			return nil, err
		}
		before, after = have, want.claims().table(have)
		return after, nil
	})
	changes = nft.Texts(made)
	if err != nil {
		return changes, err
	}
	opened, err := want.openLocalnet()
	return append(changes, opened...), errors.Join(err, forgetChanged(before, after))
}

// forgetChanged deletes UDP flows that a change of the table leads elsewhere.
func forgetChanged(before, after *nft.Table) error {
	return errors.Join(deleteFlowsToHost(decodeAll(without(after, before))), deleteFlowsToPods(decodeAll(without(before, after))))
}

// without returns the elements of a that b lacks. Either may be absent.
func without(a, b *nft.Table) []nft.Element {
	if a == nil {
		return nil
	}
	in := map[nft.Element]bool{}
	if b != nil {
		for _, e := range b.Elements {
			in[e] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(a.Elements), func(e nft.Element) bool { return in[e] })
}

// Remove deletes the table, with the host ports of all pods in it, and returns what it
// changed.
func (k *Kernel) Remove() (changes []string, err error) {
	removed, err := k.conn.Sync(table(), func(*nft.Table) (*nft.Table, error) { return nil, nil })
	return nft.Texts(removed), unlessUnsupported(err)
}

func (w Want) openLocalnet() ([]string, error) {
	var changes []string
	var errs []error
	for _, p := range w.Pods {
		if !p.Busy {
			opened, err := openLocalnet(p.Bridge, Elements(p.Mappings, p.Addresses))
			changes, errs = append(changes, opened...), append(errs, err)
		}
	}
	return changes, errors.Join(errs...)
}

// claims are the elements that pods need, before conflicts are resolved.
type claims struct {
	// elements are the elements for each place, in the order of the pods.
	elements map[place][]nft.Element
	// busy are the addresses of busy pods, whose elements stay as they are.
	busy map[netip.Addr]bool
}

// claims returns the elements of the pods. It adds the daemon's bridge to the set
// bridges for as long as the bridge has route_localnet, which stays on after the last
// pod with ports is gone.
func (w Want) claims() claims {
	c := claims{elements: map[place][]nft.Element{}, busy: map[netip.Addr]bool{}}
	for _, p := range w.Pods {
		if p.Busy {
			for _, a := range p.Addresses {
				c.busy[a] = true
			}
			continue
		}
		c.add(p.elements()...)
	}
	if v, err := sysctl.Get(localnetPath(w.Bridge)); err == nil && v == "1" {
		c.add(localnet(w.Bridge))
	}
	return c
}

func (c claims) add(elements ...nft.Element) {
	for _, e := range elements {
		c.elements[placeOf(e)] = append(c.elements[placeOf(e)], e)
	}
}

// table returns the desired table; have is the kernel's. An
// absent table stays absent as long as it would hold nothing, because a nat chain
// alone makes the kernel track every connection of the host.
func (c claims) table(have *nft.Table) *nft.Table {
	if have == nil && len(c.elements) == 0 {
		return nil
	}
	want := skeleton()
	there := placesOf(ours(have))
	for at := range c.elements {
		want.Elements = append(want.Elements, c.resolve(at, there))
	}
	for at, e := range there {
		if _, claimed := c.elements[at]; !claimed && c.leaveAlone(e) {
			want.Elements = append(want.Elements, e)
		}
	}
	return want
}

// resolve decides which element gets a place. Two pods claim a place if an ADD was
// killed after it wrote its record and before it was refused. Then the pod that has
// the place keeps it.
func (c claims) resolve(at place, there map[place]nft.Element) nft.Element {
	if e, taken := there[at]; taken && slices.Contains(c.elements[at], e) {
		return e
	}
	return c.elements[at][0]
}

// leaveAlone reports whether an element stays although nobody claims it. Elements of
// busy pods stay. A bridge stays in the set bridges, because it may have
// route_localnet.
func (c claims) leaveAlone(e nft.Element) bool {
	return (e.Set == bridges && e.Key != "") || c.busy[owner(e)]
}

// ours returns the elements of the sets whose definition is right. It drops the
// elements of all other sets.
func ours(have *nft.Table) []nft.Element {
	if have == nil {
		return nil
	}
	right := map[string]bool{}
	for _, s := range sets() {
		right[s.Name] = slices.Contains(have.Sets, s)
	}
	return slices.DeleteFunc(slices.Clone(have.Elements), func(e nft.Element) bool { return !right[e.Set] })
}

// Check compares the pod's elements and the table's rules with the kernel. It returns a
// phrase for each difference.
func (k *Kernel) Check(p Pod) ([]string, error) {
	if len(p.elements()) == 0 {
		return nil, nil
	}
	have, _, err := k.conn.Read(table())
	if err != nil {
		return nil, err
	}
	if have == nil {
		return []string{table().String() + " is gone"}, nil
	}
	diffs := append(damage(have), p.differences(ours(have))...)
	if onLocalhost(p.mapped()) {
		if v, err := sysctl.Get(localnetPath(p.Bridge)); err != nil || v != "1" {
			diffs = append(diffs, fmt.Sprintf("sysctl net.ipv4.conf.%s.route_localnet is %q, not 1", p.Bridge, v))
		}
	}
	return diffs, nil
}

// damage returns how the table differs from the desired one, apart from elements.
func damage(have *nft.Table) []string {
	want := skeleton()
	want.Elements = ours(have)
	var diffs []string
	for _, c := range nft.Plan(table(), want, have).Changes {
		if c.Why != "" {
			diffs = append(diffs, c.Where+": "+c.Why)
		}
	}
	return diffs
}

// differences returns which elements of the pod the table lacks, or has with other
// data. Ports that lead to a sibling don't count.
func (p *Pod) differences(have []nft.Element) []string {
	there := placesOf(have)
	for _, e := range p.mapped() {
		if at, taken := there[placeOf(e.encode())]; taken {
			p.leadsElsewhere(at)
		}
	}
	var diffs []string
	for _, e := range p.elements() {
		switch at, taken := there[placeOf(e)]; {
		case !taken:
			diffs = append(diffs, fmt.Sprintf("%s, %s is gone", table(), text(e)))
		case at != e:
			diffs = append(diffs, fmt.Sprintf("%s, %s instead of %s", table(), text(at), text(e)))
		}
	}
	return diffs
}
