package hostport

import (
	"encoding/binary"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// Element is a mapping for one of a pod's addresses: one element of one of the
// table's maps.
type Element struct {
	Mapping
	Pod netip.Addr
}

// Elements returns the elements of a pod: one for each mapping and each address of a
// family that the mapping is for. If a mapping's HostIP stands for all addresses, the
// element's HostIP is the zero Addr.
func Elements(mappings []Mapping, addresses []netip.Addr) []Element {
	var elements []Element
	for _, m := range mappings {
		for _, a := range addresses {
			if m.in(family.Of(a)) {
				e := Element{m, a}
				e.HostIP = m.address()
				elements = append(elements, e)
			}
		}
	}
	return elements
}

// place is where an element is in the table: its key in a set.
type place struct {
	set, key string
}

func placeOf(e nft.Element) place { return place{e.Set, e.Key} }

func placesOf(elements []nft.Element) map[place]nft.Element {
	places := make(map[place]nft.Element, len(elements))
	for _, e := range elements {
		places[placeOf(e)] = e
	}
	return places
}

// encode returns the element in the kernel's form.
func (e Element) encode() nft.Element {
	f := family.Of(e.Pod)
	protocol, port := []byte{e.Protocol.number()}, bigEndian(e.HostPort)
	to := nft.Fields(e.Pod.AsSlice(), bigEndian(e.ContainerPort))
	if e.HostIP.IsValid() {
		return nft.Element{Set: boundSet(f), Key: nft.Fields(protocol, e.HostIP.AsSlice(), port), Data: to}
	}
	return nft.Element{Set: portsSet(f), Key: nft.Fields(protocol, port), Data: to}
}

func bigEndian(port uint16) []byte { return binary.BigEndian.AppendUint16(nil, port) }

// decode is the inverse of encode. It is false for elements of other sets, and
// for a map's element that stands for all keys.
func decode(e nft.Element) (Element, bool) {
	for _, f := range family.All() {
		key := nft.Split(e.Key, 1, 2)
		var host netip.Addr
		switch e.Set {
		case boundSet(f):
			if key = nft.Split(e.Key, 1, f.Bytes(), 2); key != nil {
				host, _ = netip.AddrFromSlice(key[1])
			}
		case portsSet(f):
		default:
			continue
		}
		to := nft.Split(e.Data, f.Bytes(), 2)
		if key == nil || to == nil {
			return Element{}, false
		}
		pod, _ := netip.AddrFromSlice(to[0])
		return Element{Mapping{
			HostPort: binary.BigEndian.Uint16(key[len(key)-1]), ContainerPort: binary.BigEndian.Uint16(to[1]),
			Protocol: protocolOf(key[0][0]), HostIP: host,
		}, pod}, true
	}
	return Element{}, false
}

// decodeAll returns those of the elements that lead to pods.
func decodeAll(elements []nft.Element) []Element {
	var decoded []Element
	for _, e := range elements {
		if d, ok := decode(e); ok {
			decoded = append(decoded, d)
		}
	}
	return decoded
}

// owner returns the address of the pod that an element belongs to, or the zero Addr if
// the element belongs to no pod.
func owner(e nft.Element) netip.Addr {
	if d, ok := decode(e); ok {
		return d.Pod
	}
	for _, f := range family.All() {
		if pair := nft.Split(e.Key, f.Bytes(), f.Bytes()); e.Set == hairpinSet(f) && pair != nil {
			a, _ := netip.AddrFromSlice(pair[0])
			return a
		}
	}
	return netip.Addr{}
}

// hairpin lets a pod that calls itself see the host as the caller.
func hairpin(pod netip.Addr) nft.Element {
	return nft.Element{Set: hairpinSet(family.Of(pod)), Key: nft.Fields(pod.AsSlice(), pod.AsSlice())}
}

// localnet says that the bridge's pods have ports on 127.0.0.0/8.
func localnet(bridge string) nft.Element {
	return nft.Element{Set: bridges, Key: string(nft.PadName(bridge))}
}

// withoutBridges leaves out the elements of bridges, which pods share.
func withoutBridges(elements []nft.Element) []nft.Element {
	var others []nft.Element
	for _, e := range elements {
		if e.Set != bridges {
			others = append(others, e)
		}
	}
	return others
}

// text returns the element with its set, as nft lists them: "map ports4: tcp . 8080 :
// 10.244.1.2 . 80".
func text(e nft.Element) string {
	for _, s := range sets() {
		if s.Name == e.Set {
			return s.Title() + ": " + s.Text(e)
		}
	}
	return "set " + e.Set
}
