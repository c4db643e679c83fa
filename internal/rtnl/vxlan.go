package rtnl

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// VXLAN is a device that encapsulates.
type VXLAN struct {
	Name string
	MAC  net.HardwareAddr
	MTU  int
	VNI  uint32
	Port uint16
	// Underlay is the index of the interface that carries the tunnel.
	Underlay int
	// Local is the source address of what the tunnel sends.
	Local netip.Addr
}

const (
	vxlanID     = 1 // IFLA_VXLAN_*, linux/if_link.h
	vxlanLink   = 3
	vxlanLocal  = 4
	vxlanLearn  = 7
	vxlanPort   = 15
	vxlanLocal6 = 17
)

// AddVXLAN makes the device: down, without learning, without a default remote.
func (b *Batch) AddVXLAN(v VXLAN) {
	op := fmt.Sprintf("create vxlan device %s with VNI %d and port %d", v.Name, v.VNI, v.Port)
	b.begin(op, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifInfo(0, 0))
	b.linkBasics(v.Name, v.MAC, v.MTU)
	b.vxlanInfo(v, func() { b.attrNet16(vxlanPort, v.Port) })
}

// SetVXLAN changes what the kernel can change of a live device: underlay,
// local address (within its family) and learning, which it turns off.
func (b *Batch) SetVXLAN(v VXLAN) {
	op := fmt.Sprintf("set underlay and local address %s of vxlan device %s", v.Local, v.Name)
	b.setLink(op, v.Name)
	b.vxlanInfo(v, func() {})
}

func (b *Batch) vxlanInfo(v VXLAN, more func()) {
	b.nest(unix.IFLA_LINKINFO, func() {
		b.attrString(unix.IFLA_INFO_KIND, "vxlan")
		b.nest(unix.IFLA_INFO_DATA, func() {
			b.attr32(vxlanID, v.VNI)
			b.attr32(vxlanLink, uint32(v.Underlay))
			if v.Local.Is4() {
				b.attrAddr(vxlanLocal, v.Local)
			} else {
				b.attrAddr(vxlanLocal6, v.Local)
			}
			b.attr8(vxlanLearn, 0)
			more()
		})
	})
}

// SetMTU changes a link's MTU.
func (b *Batch) SetMTU(name string, mtu int) {
	b.setLink(fmt.Sprintf("set MTU %d of %s", mtu, name), name)
	b.attr32(unix.IFLA_MTU, uint32(mtu))
}

// SetMAC changes a link's MAC address.
func (b *Batch) SetMAC(name string, mac net.HardwareAddr) {
	b.setLink(fmt.Sprintf("set MAC address %s of %s", mac, name), name)
	b.attr(unix.IFLA_ADDRESS, mac)
}

// SetAlias changes a link's alias.
func (b *Batch) SetAlias(name, alias string) {
	b.setLink(fmt.Sprintf("set alias %q of %s", alias, name), name)
	b.attrString(unix.IFLA_IFALIAS, alias)
}

// SetNoAutoAddress keeps the kernel from giving a link a link-local IPv6
// address when it goes up. It fails where the link has no IPv6.
func (b *Batch) SetNoAutoAddress(name string) {
	b.setLink("keep "+name+" from getting a link-local IPv6 address", name)
	b.nest(unix.IFLA_AF_SPEC, func() {
		b.nest(unix.AF_INET6, func() { b.attr8(inet6AddrGenMode, noAddress) })
	})
}

// SetNamedUp sets the link of that name up.
func (b *Batch) SetNamedUp(name string) {
	b.begin("set "+name+" up", unix.RTM_NEWLINK, 0, ifInfo(0, unix.IFF_UP))
	b.attrString(unix.IFLA_IFNAME, name)
}

func (b *Batch) setLink(op, name string) {
	b.begin(op, unix.RTM_NEWLINK, 0, ifInfo(0, 0))
	b.attrString(unix.IFLA_IFNAME, name)
}

// DelDumped deletes what one of the Each functions listed: an address, a route
// or a neighbour, with all that tells it from others like it. Text names it.
func (b *Batch) DelDumped(text string, kind Dumped, raw string) {
	header := []byte(raw)
	switch {
	case kind == DumpedRoute:
		header = withoutNextHop(header)
	case kind == DumpedNeighbor && header[0] == unix.AF_BRIDGE:
		header[ndmFlags] |= unix.NTF_SELF // else the kernel looks for a bridge
	}
	b.begin("delete "+text, uint16(kind), 0, header)
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
	attrs := raw[unix.SizeofRtMsg:]
	if find(attrs, rtaNextHopID) == nil {
		return raw
	}
	b := Batch{buf: append([]byte(nil), raw[:unix.SizeofRtMsg]...)}
	eachAttr(attrs, func(typ uint16, value []byte) {
		switch typ {
		case unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH:
		default:
			b.attr(typ, value)
		}
	})
	return b.buf
}
