package hostport

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Pod is one attachment's part in the table: what is added and deleted
// together.
type Pod struct {
	// Bridge is the name of the bridge that the pod is connected to.
	Bridge string
	// Addresses are the pod's, at most one a family.
	Addresses []netip.Addr
	Mappings  []Mapping
	// Busy: an ADD or DEL works on the attachment. Sync leaves its elements
	// alone.
	Busy bool
	// Sibling tells whether an address is of the same pod, by another network.
	// Ports that lead there are the pod's as well as its own: Add leaves them,
	// and Check is content with them. It may be nil, for none.
	Sibling func(netip.Addr) bool
	// elsewhere are the places of the ports that lead to a sibling.
	elsewhere map[slot]bool
}

// leadsElsewhere tells whether what has a place of the pod is a sibling's, and
// remembers that.
func (p *Pod) leadsElsewhere(at slot, holder netip.Addr) bool {
	if p.Sibling == nil || !p.Sibling(holder) {
		return false
	}
	if p.elsewhere == nil {
		p.elsewhere = map[slot]bool{}
	}
	p.elsewhere[at] = true
	return true
}

// elements are those that the pod needs in the table.
func (p Pod) elements() []Element {
	return slices.DeleteFunc(Elements(p.Mappings, p.Addresses), func(e Element) bool { return p.elsewhere[e.entry().slot] })
}

// Element is a mapping for one of a pod's addresses: one element of one of the
// table's maps.
type Element struct {
	Mapping
	Pod netip.Addr
}

// Elements are those of the pod's mappings for each of its addresses, as far as
// the mapping is for that address's family. A mapping's HostIP becomes the zero
// Addr where it stands for all addresses.
func Elements(mappings []Mapping, addresses []netip.Addr) []Element {
	var elements []Element
	for _, m := range mappings {
		for _, a := range addresses {
			if m.in(familyOf(a)) {
				e := Element{m, a}
				e.HostIP = m.address()
				elements = append(elements, e)
			}
		}
	}
	return elements
}

// slot is a place in a set of the table: the set's name and the key as the
// kernel has it.
type slot struct {
	set, key string
}

// entry is an element of any set, encoded. Sets that aren't maps have no data.
type entry struct {
	slot
	data string
}

// entry is the element as the kernel has it.
func (e Element) entry() entry {
	f := familyOf(e.Pod)
	to := field(e.Pod.AsSlice()) + port(e.ContainerPort)
	if e.HostIP.IsValid() {
		return entry{slot{f.bound(), e.protocol() + field(e.HostIP.AsSlice()) + port(e.HostPort)}, to}
	}
	return entry{slot{f.ports(), e.protocol() + port(e.HostPort)}, to}
}

func (e Element) protocol() string { return field([]byte{e.Protocol.number()}) }

// element is the inverse of Element.entry; the entry has to be of a map.
func (e entry) element(f family) Element {
	var el Element
	key, data := e.key, e.data
	protocol, key := cut(key, 1)
	el.Protocol = protocolOf(protocol[0])
	if e.set == f.bound() {
		var host string
		host, key = cut(key, f.size)
		el.HostIP, _ = netip.AddrFromSlice([]byte(host))
	}
	el.HostPort = number(key)
	pod, data := cut(data, f.size)
	el.Pod, _ = netip.AddrFromSlice([]byte(pod))
	el.ContainerPort = number(data)
	return el
}

// fields of a key take whole registers of 4 bytes.
func field(b []byte) string { return string(pad(b)) }

func port(p uint16) string { return field([]byte{byte(p >> 8), byte(p)}) }

func number(s string) uint16 { return uint16(s[0])<<8 | uint16(s[1]) }

// cut splits a field of n bytes off.
func cut(s string, n int) (value, rest string) { return s[:n], s[align(n):] }

// hairpin lets a pod that is reached by itself see the host as the caller.
func hairpin(pod netip.Addr) entry {
	a := field(pod.AsSlice())
	return entry{slot: slot{familyOf(pod).hairpin(), a + a}}
}

// localnet says that the bridge's pods have ports on 127.0.0.0/8.
func localnet(bridge string) entry {
	var name [unix.IFNAMSIZ]byte
	copy(name[:], bridge)
	return entry{slot: slot{bridges, string(name[:])}}
}

// entries are all that the pod needs in the table.
func (p Pod) entries() []entry {
	elements := p.elements()
	var all []entry
	if onLocalhost(elements) {
		all = append(all, localnet(p.Bridge))
	}
	for _, a := range p.Addresses {
		if uses(elements, a) {
			all = append(all, hairpin(a))
		}
	}
	for _, e := range elements {
		all = append(all, e.entry())
	}
	return all
}

func onLocalhost(elements []Element) bool {
	for _, e := range elements {
		if e.Pod.Is4() && e.onLocalhost() {
			return true
		}
	}
	return false
}

func uses(elements []Element, pod netip.Addr) bool {
	for _, e := range elements {
		if e.Pod == pod {
			return true
		}
	}
	return false
}

// owner is the address of the pod that an entry is for; the zero Addr if it is
// for the host.
func (e entry) owner() netip.Addr {
	for _, f := range families() {
		if e.set == f.hairpin() {
			a, _ := netip.AddrFromSlice([]byte(e.key[:f.size]))
			return a
		}
		if f.maps(e.set) {
			return e.element(f).Pod
		}
	}
	return netip.Addr{}
}
