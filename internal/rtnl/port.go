package rtnl

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// PortEntry is a bridge's port as the kernel lists it.
type PortEntry struct {
	Link
	Isolated bool
	Hairpin  bool
	// Floods says that broadcasts or multicasts of other ports go to this one.
	Floods bool
	// Hooked says that no frame from the port gets past the bridge's hooks.
	Hooked bool

	attrs nl.Attrs
}

// PortProperty is a setting of a bridge's port that is one byte (IFLA_BRPORT_*,
// linux/if_link.h).
type PortProperty struct {
	Attr uint16
	Name string // as bridge(8) and ip-link(8) write it
}

// The properties of a port that SetPort leaves alone. Those that are missing here
// matter only to spanning trees, VLANs or multicast snooping.
var (
	PortState         = PortProperty{1, "state"}
	PortBPDUGuard     = PortProperty{5, "guard"}
	PortRootBlock     = PortProperty{6, "root_block"}
	PortLearning      = PortProperty{8, "learning"}
	PortFlood         = PortProperty{9, "flood"}
	PortProxyARP      = PortProperty{10, "proxy_arp"}
	PortProxyARPWiFi  = PortProperty{12, "proxy_arp_wifi"}
	PortMcastToUcast  = PortProperty{28, "mcast_to_unicast"}
	PortVLANTunnel    = PortProperty{29, "vlan_tunnel"}
	PortNeighSuppress = PortProperty{32, "neigh_suppress"}
	PortLocked        = PortProperty{39, "locked"}
	PortMAB           = PortProperty{40, "mab"}
)

// PortForwarding is the value of PortState for a port that forwards
// (BR_STATE_FORWARDING).
const PortForwarding = 3

// Property returns the value of a property, false if the kernel doesn't have it. If the
// port is from EachPort, Property works only during the call of EachPort's function.
func (p PortEntry) Property(of PortProperty) (value uint8, ok bool) {
	v := p.attrs.Get(of.Attr)
	return v.Uint8(), v != nil
}

// SetPortProperties sets properties of a bridge's port.
func (b *Batch) SetPortProperties(name string, values map[PortProperty]uint8) *nl.Request {
	op := "set"
	var flags nl.Attrs
	for p, v := range values {
		op += " " + p.Name
		flags = flags.Uint8(p.Attr, v)
	}
	info := nl.Attrs(nil).Text(unix.IFLA_INFO_SLAVE_KIND, "bridge").Nest(infoSlaveData, flags)
	return b.add(op+" of bridge port "+name, unix.RTM_NEWLINK, 0, named(name, 0).Nest(unix.IFLA_LINKINFO, info))
}

// EachPort lists the ports of the bridge with that interface index. The kernel
// filters them (since 4.2).
func (c *Conn) EachPort(bridge int, each func(PortEntry)) error {
	body := ifInfo(0, 0).Uint32(unix.IFLA_MASTER, uint32(bridge)).Uint32(unix.IFLA_EXT_MASK, extFilterSkipStats)
	return c.list("list the ports of a bridge", unix.RTM_GETLINK, body, func(body []byte) {
		if p := parsePort(body); p.Master == bridge {
			each(p)
		}
	})
}

// Port returns a link as a bridge's port. It is none if its Master is 0.
func (c *Conn) Port(name string) (PortEntry, error) {
	m, err := c.getLink(name)
	if err != nil {
		return PortEntry{}, err
	}
	return parsePort(slices.Clone(m.Body)), nil
}

func parsePort(body []byte) PortEntry {
	port := nl.Attrs(body[unix.SizeofIfInfomsg:]).Get(unix.IFLA_LINKINFO, infoSlaveData).Attrs()
	is := func(typ uint16) bool { return port.Get(typ).Uint8() != 0 }
	return PortEntry{
		Link: parseLink(body), Isolated: is(portIsolated), Hairpin: is(portHairpin),
		Floods: is(portMulticast) || is(portBroadcast), attrs: port,
		Hooked: port.Get(portForwardMask).Uint16() == hooked,
	}
}

// SetMaster makes a link a bridge's port.
func (b *Batch) SetMaster(name string, bridge int) *nl.Request {
	return b.add("make "+name+" a port of the bridge", unix.RTM_NEWLINK, 0, named(name, 0).Uint32(unix.IFLA_MASTER, uint32(bridge)))
}
