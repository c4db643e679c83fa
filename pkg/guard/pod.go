package guard

import (
	"net"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// Pod is one attachment's part in the table.
type Pod struct {
	Port      string           // the host's end of the veth pair
	MAC       net.HardwareAddr // 6 bytes
	Addresses []netip.Addr
	// Bridge is the MAC address of the bridge, which is the pod's gateway. Nil: it is
	// unknown.
	Bridge net.HardwareAddr
}

const macSize = 6

// gatewayLinkLocal is the link-local address of every bridge (bridge.Spec.Want).
var gatewayLinkLocal = netip.MustParseAddr("fe80::1")

// elements returns the elements that belong to the pod alone.
func (p Pod) elements() []nft.Element {
	port := nft.PadName(p.Port)
	all := []nft.Element{
		{Set: setPorts, Key: nft.Fields(port)},
		{Set: setOwn, Key: nft.Fields(port, p.MAC)},
		macElement(p.MAC),
		linkLocalElement(linkLocal(p.MAC)),
	}
	for _, a := range slices.Concat(p.Addresses, []netip.Addr{linkLocal(p.MAC)}) {
		all = append(all, nft.Element{Set: sourcesSet(family.Of(a)), Key: nft.Fields(port, a.AsSlice())})
	}
	return all
}

// shared returns the elements that the pods of a bridge share.
func (p Pod) shared() []nft.Element {
	all := []nft.Element{linkLocalElement(gatewayLinkLocal)}
	if len(p.Bridge) == macSize {
		all = append(all, macElement(p.Bridge))
	}
	return all
}

func macElement(mac net.HardwareAddr) nft.Element {
	return nft.Element{Set: setMACs, Key: string(mac)}
}

func linkLocalElement(a netip.Addr) nft.Element {
	return nft.Element{Set: setLinkLocals, Key: string(a.AsSlice())}
}

// linkLocal is the address that the kernel makes of a MAC address (RFC 4291, appendix
// A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	var a [16]byte
	copy(a[:], linkLocalNet())
	copy(a[8:], mac[:3])
	a[11], a[12] = 0xff, 0xfe
	copy(a[13:], mac[3:])
	a[8] ^= 2
	return netip.AddrFrom16(a)
}

// portOf returns the port in an element's key, or "" for an element of another set.
func portOf(e nft.Element) string {
	switch e.Set {
	case setPorts, setOwn, sourcesSet(family.IPv4), sourcesSet(family.IPv6):
		name, _, _ := cutName(e.Key)
		return name
	}
	return ""
}

// cutName splits a key that begins with an interface name.
func cutName(key string) (name, rest string, ok bool) {
	const size = 16 // IFNAMSIZ
	if len(key) < size {
		return "", "", false
	}
	name = key[:size]
	if i := slices.Index([]byte(name), 0); i >= 0 {
		name = name[:i]
	}
	return name, key[size:], true
}

// sharedBy returns the elements in macs and linklocals that elements with a port stand
// for.
func sharedBy(e nft.Element) []nft.Element {
	_, rest, ok := cutName(e.Key)
	if !ok || e.Set != setOwn || len(rest) < macSize {
		return nil
	}
	mac := net.HardwareAddr(rest[:macSize])
	return []nft.Element{macElement(mac), linkLocalElement(linkLocal(mac))}
}
