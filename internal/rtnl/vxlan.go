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
	vxlanTOS        = 6
	vxlanLearn      = 7
	vxlanLimit      = 9 // of FDB entries
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

// SetVXLAN sets the options that the kernel can change on a live device:
// underlay, local address (of the same family), TTL (except InheritTTL), TOS and DF.
// It also turns learning off.
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
		Uint8(vxlanTTL, uint8(max(t.TTL, 0))). // fixed sets InheritTTL
		Uint8(vxlanTOS, uint8(t.TOS)).
		Uint8(vxlanDF, uint8(t.DF))
}

// fixed adds the options that only a request to create the device may contain.
// It leaves out options at their default, because older kernels may not know
// them.
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
		case vxlanTOS:
			t.TOS = tunnel.TOS(value.Uint8())
		case vxlanDF:
			t.DF = tunnel.DF(value.Uint8())
		case vxlanChecksum:
			zero4 = !isOn(value)
		case vxlanZeroTx6:
			zero6 = isOn(value)
		case vxlanZeroRx6:
			zeroRx6 = isOn(value)
		case vxlanLimit:
			if n := value.Uint32(); n > 0 {
				t.More += fmt.Sprintf(" maxaddress %d", n)
			}
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
