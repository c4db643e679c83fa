package rtnl

import "golang.org/x/sys/unix"

// PortEntry is a bridge's port as the kernel lists it.
type PortEntry struct {
	Link
	Isolated bool
	Hairpin  bool
	// Floods says that broadcasts or multicasts of other ports go to this one.
	Floods bool
}

// EachPort lists the ports of the bridge with that interface index, which the
// kernel filters by (since 4.2).
func (c *Conn) EachPort(bridge int, each func(PortEntry)) error {
	b := begunDump("list the ports of a bridge", unix.RTM_GETLINK, ifInfo(0, 0))
	b.attr32(unix.IFLA_MASTER, uint32(bridge))
	b.attr32(unix.IFLA_EXT_MASK, extFilterSkipStats)
	return c.query(b, func(typ uint16, payload []byte) error {
		if typ != unix.RTM_NEWLINK || len(payload) < unix.SizeofIfInfomsg {
			return nil
		}
		if p := parsePort(payload); p.Master == bridge {
			each(p)
		}
		return nil
	})
}

func parsePort(payload []byte) PortEntry {
	info := find(payload[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO)
	port := find(info, infoSlaveData)
	is := func(typ uint16) bool {
		v := find(port, typ)
		return len(v) == 1 && v[0] != 0
	}
	return PortEntry{
		Link: parseLink(payload), Isolated: is(portIsolated), Hairpin: is(portHairpin),
		Floods: is(portMulticast) || is(portBroadcast),
	}
}

// SetMaster makes a link a bridge's port.
func (b *Batch) SetMaster(name string, bridge int) {
	b.begin("make "+name+" a port of the bridge", unix.RTM_NEWLINK, 0, ifInfo(0, 0))
	b.attrString(unix.IFLA_IFNAME, name)
	b.attr32(unix.IFLA_MASTER, uint32(bridge))
}

// SetUpByName is SetUp for a link of which the index isn't known.
func (b *Batch) SetUpByName(name string) {
	b.begin("set link "+name+" up", unix.RTM_NEWLINK, 0, ifInfo(0, unix.IFF_UP))
	b.attrString(unix.IFLA_IFNAME, name)
}
