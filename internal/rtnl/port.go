package rtnl

import (
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

func parsePort(body []byte) PortEntry {
	port := nl.Attrs(body[unix.SizeofIfInfomsg:]).Get(unix.IFLA_LINKINFO, infoSlaveData).Attrs()
	is := func(typ uint16) bool { return port.Get(typ).Uint8() != 0 }
	return PortEntry{
		Link: parseLink(body), Isolated: is(portIsolated), Hairpin: is(portHairpin),
		Floods: is(portMulticast) || is(portBroadcast),
		Hooked: port.Get(portForwardMask).Uint16() == hooked,
	}
}

// SetMaster makes a link a bridge's port.
func (b *Batch) SetMaster(name string, bridge int) *nl.Request {
	return b.add("make "+name+" a port of the bridge", unix.RTM_NEWLINK, 0, named(name, 0).Uint32(unix.IFLA_MASTER, uint32(bridge)))
}
