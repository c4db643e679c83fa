package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

// VXLAN is a device that encapsulates.
type VXLAN struct {
	Name string
	MAC  net.HardwareAddr
	MTU  int
	tunnel.Tunnel
}

const (
	vxlanID         = 1 // IFLA_VXLAN_*, linux/if_link.h
	vxlanGroup      = 2
	vxlanLink       = 3
	vxlanLocal      = 4
	vxlanTTL        = 5
	vxlanLearn      = 7
	vxlanPortRange  = 10
	vxlanPort       = 15
	vxlanGroup6     = 16
	vxlanLocal6     = 17
	vxlanChecksum   = 18 // UDP_CSUM
	vxlanZeroTx6    = 19 // UDP_ZERO_CSUM6_TX
	vxlanZeroRx6    = 20 // UDP_ZERO_CSUM6_RX
	vxlanInheritTTL = 28
	vxlanDF         = 29
)

// vxlanFlags are the options that we never set, by their attributes.
var vxlanFlags = map[uint16]string{
	11: " proxy", 12: " rsc", 13: " l2miss", 14: " l3miss", 21: " remcsumtx", 22: " remcsumrx",
	23: " gbp", 25: " external", 27: " gpe", 30: " vnifilter",
}

// AddVXLAN makes the device: down, without learning, without a default remote.
func (b *Batch) AddVXLAN(v VXLAN) *nl.Request {
	op := fmt.Sprintf("create vxlan device %s with VNI %d and port %d", v.Name, v.VNI, v.Port)
	data := changeable(v.Tunnel).Uint16BE(vxlanPort, v.Port)
	body := linkBasics(v.Name, v.MAC, v.MTU).Nest(unix.IFLA_LINKINFO, vxlanInfo(fixed(v.Tunnel, data)))
	return b.add(op, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
}

// SetVXLAN changes what the kernel can change of a live device: underlay,
// local address (within its family), TTL (but for inheriting it), DF, and
// learning, which it turns off.
func (b *Batch) SetVXLAN(v VXLAN) *nl.Request {
	op := fmt.Sprintf("set underlay and local address %s of vxlan device %s", v.Local, v.Name)
	return b.setLink(op, v.Name, nl.Attrs(nil).Nest(unix.IFLA_LINKINFO, vxlanInfo(changeable(v.Tunnel))))
}

func vxlanInfo(data nl.Attrs) nl.Attrs {
	return nl.Attrs(nil).Text(unix.IFLA_INFO_KIND, "vxlan").Nest(unix.IFLA_INFO_DATA, data)
}

// changeable are the options that the kernel can change on a live device.
func changeable(t tunnel.Tunnel) nl.Attrs {
	local := uint16(vxlanLocal)
	if t.Local.Is6() {
		local = vxlanLocal6
	}
	return nl.Attrs(nil).
		Uint32(vxlanID, t.VNI).
		Uint32(vxlanLink, uint32(t.Underlay)).
		Addr(local, t.Local).
		Uint8(vxlanLearn, 0).
		Uint8(vxlanTTL, uint8(max(t.TTL, 0))). // an inherited one is in fixed
		Uint8(vxlanDF, uint8(t.DF))
}

// fixed adds the options that the kernel refuses to change, or even to hear of,
// once the device exists. It leaves out those without effect, which an older
// kernel need not know.
func fixed(t tunnel.Tunnel, a nl.Attrs) nl.Attrs {
	if t.SourcePorts != (tunnel.PortRange{}) {
		value := binary.BigEndian.AppendUint16(nil, t.SourcePorts.Low)
		a = a.Bytes(vxlanPortRange, binary.BigEndian.AppendUint16(value, t.SourcePorts.High))
	}
	switch {
	case t.ZeroChecksum && t.Local.Is4():
		a = a.Uint8(vxlanChecksum, 0)
	case t.ZeroChecksum:
		a = a.Uint8(vxlanZeroTx6, 1)
	}
	if t.AcceptZeroChecksum {
		a = a.Uint8(vxlanZeroRx6, 1)
	}
	if t.TTL == tunnel.InheritTTL {
		a = a.Flag(vxlanInheritTTL)
	}
	return a
}

// Tunnel reads what EachLink lists of a VXLAN device.
func (l LinkEntry) Tunnel() tunnel.Tunnel {
	var t tunnel.Tunnel
	var inherit, zero4, zero6, zeroRx6 bool
	for typ, value := range l.data.All() {
		switch typ {
		case vxlanID:
			t.VNI = value.Uint32()
		case vxlanLink:
			t.Underlay = int(value.Uint32())
		case vxlanPort:
			t.Port = value.Uint16BE()
		case vxlanLocal, vxlanLocal6:
			t.Local = value.Addr()
		case vxlanLearn:
			t.Learning = isOn(value)
		case vxlanPortRange:
			t.SourcePorts = portRange(value)
		case vxlanTTL:
			t.TTL = tunnel.TTL(value.Uint8())
		case vxlanInheritTTL:
			inherit = isOn(value)
		case vxlanDF:
			t.DF = tunnel.DF(value.Uint8())
		case vxlanChecksum:
			zero4 = !isOn(value)
		case vxlanZeroTx6:
			zero6 = isOn(value)
		case vxlanZeroRx6:
			zeroRx6 = isOn(value)
		case vxlanGroup, vxlanGroup6:
			t.More += " remote " + value.Addr().String()
		default:
			if name := vxlanFlags[typ]; name != "" && isOn(value) {
				t.More += name
			}
		}
	}
	if inherit {
		t.TTL = tunnel.InheritTTL
	}
	// The kernel lists the options of the other family too; they have no effect.
	t.ZeroChecksum, t.AcceptZeroChecksum = zero4, false
	if t.Local.Is6() {
		t.ZeroChecksum, t.AcceptZeroChecksum = zero6, zeroRx6
	}
	return t
}

func portRange(value nl.Value) tunnel.PortRange {
	if len(value) < 4 {
		return tunnel.PortRange{}
	}
	return tunnel.PortRange{Low: value.Uint16BE(), High: value[2:].Uint16BE()}
}

// isOn reads an option that is on or off: a byte, or an attribute without a value.
func isOn(value nl.Value) bool { return len(value) == 0 || value[0] != 0 }

// SetMTU changes a link's MTU, in bytes.
func (b *Batch) SetMTU(name string, mtu int) *nl.Request {
	return b.setLink(fmt.Sprintf("set MTU %d of %s", mtu, name), name, nl.Attrs(nil).Uint32(unix.IFLA_MTU, uint32(mtu)))
}

// SetMAC changes a link's MAC address.
func (b *Batch) SetMAC(name string, mac net.HardwareAddr) *nl.Request {
	return b.setLink(fmt.Sprintf("set MAC address %s of %s", mac, name), name, nl.Attrs(nil).Bytes(unix.IFLA_ADDRESS, mac))
}

// SetAlias changes a link's alias.
func (b *Batch) SetAlias(name, alias string) *nl.Request {
	return b.setLink(fmt.Sprintf("set alias %q of %s", alias, name), name, nl.Attrs(nil).Text(unix.IFLA_IFALIAS, alias))
}

// SetNoAutoAddress keeps the kernel from giving a link a link-local IPv6
// address when it goes up. It fails where the link has no IPv6.
func (b *Batch) SetNoAutoAddress(name string) *nl.Request {
	mode := nl.Attrs(nil).Uint8(inet6AddrGenMode, noAddress)
	return b.setLink("keep "+name+" from getting a link-local IPv6 address", name,
		nl.Attrs(nil).Nest(unix.IFLA_AF_SPEC, nl.Attrs(nil).Nest(unix.AF_INET6, mode)))
}

func (b *Batch) setLink(op, name string, attrs nl.Attrs) *nl.Request {
	return b.add(op, unix.RTM_NEWLINK, 0, append(named(name, 0), attrs...))
}

// DelDumped deletes what one of the Each functions listed: an address, a route
// or a neighbour, with all that tells it from others like it. Text names it.
func (b *Batch) DelDumped(text string, kind Dumped, raw string) *nl.Request {
	header := []byte(raw)
	switch {
	case kind == DumpedRoute:
		header = withoutNextHop(header)
	case kind == DumpedNeighbor && header[0] == unix.AF_BRIDGE:
		header[ndmFlags] |= unix.NTF_SELF // else the kernel looks for a bridge
	}
	return b.add("delete "+text, uint16(kind), 0, header)
}

// Dumped is a kind of object that DelDumped deletes.
type Dumped uint16

// The kinds, as the message types that delete them. Forwarding entries are
// neighbours to the kernel.
const (
	DumpedAddr     Dumped = unix.RTM_DELADDR
	DumpedRoute    Dumped = unix.RTM_DELROUTE
	DumpedNeighbor Dumped = unix.RTM_DELNEIGH
)

const ndmFlags = 10 // offset in struct ndmsg

// withoutNextHop leaves out what the kernel lists of a nexthop object, but
// refuses to get back together with the object's number.
func withoutNextHop(raw []byte) []byte {
	attrs := nl.Attrs(raw[unix.SizeofRtMsg:])
	if attrs.Get(rtaNextHopID) == nil {
		return raw
	}
	kept := append(nl.Attrs(nil), raw[:unix.SizeofRtMsg]...)
	for typ, value := range attrs.All() {
		switch typ {
		case unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH:
		default:
			kept = kept.Bytes(typ, value)
		}
	}
	return kept
}
