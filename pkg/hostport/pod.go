package hostport

import (
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// Pod is one attachment's part in the table: what is added and deleted
// together.
type Pod struct {
	// Bridge is the name of the bridge that the pod is connected to.
	Bridge string
	// Addresses are the pod's, at most one of each family.
	Addresses []netip.Addr
	Mappings  []Mapping
	// Busy says that an ADD or DEL works on the attachment. Sync leaves its
	// elements alone.
	Busy bool
	// Sibling reports whether an address belongs to the same pod in another network.
	// Ports that lead to such an address are the pod's, too: Add leaves them alone, and
	// Check accepts them. Nil: the pod is in no other network.
	Sibling func(netip.Addr) bool
	// elsewhere are the places of the ports that lead to a sibling.
	elsewhere map[place]bool
}

// leadsElsewhere reports whether an element at a place of the pod leads to a sibling,
// and remembers the place.
func (p *Pod) leadsElsewhere(at nft.Element) bool {
	if p.Sibling == nil || !p.Sibling(owner(at)) {
		return false
	}
	if p.elsewhere == nil {
		p.elsewhere = map[place]bool{}
	}
	p.elsewhere[placeOf(at)] = true
	return true
}

// mapped returns the pod's ports, without those that lead to a sibling.
func (p Pod) mapped() []Element {
	return slices.DeleteFunc(Elements(p.Mappings, p.Addresses), func(e Element) bool { return p.elsewhere[placeOf(e.encode())] })
}

// elements returns all elements that the pod needs in the table.
func (p Pod) elements() []nft.Element {
	mapped := p.mapped()
	var all []nft.Element
	if onLocalhost(mapped) {
		all = append(all, localnet(p.Bridge))
	}
	for _, a := range p.Addresses {
		if slices.ContainsFunc(mapped, func(e Element) bool { return e.Pod == a }) {
			all = append(all, hairpin(a))
		}
	}
	for _, e := range mapped {
		all = append(all, e.encode())
	}
	return all
}

func onLocalhost(elements []Element) bool {
	return slices.ContainsFunc(elements, func(e Element) bool { return e.Pod.Is4() && e.onLocalhost() })
}
