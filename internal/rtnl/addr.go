package rtnl

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// AddAddr adds an address to an interface. It is usable at once: duplicate
// address detection is left out, which IPv6 would wait a second for.
func (b *Batch) AddAddr(index int, p netip.Prefix) { b.addr(index, p, unix.RTM_NEWADDR) }

// DelAddr removes an address from an interface.
func (b *Batch) DelAddr(index int, p netip.Prefix) { b.addr(index, p, unix.RTM_DELADDR) }

func (b *Batch) addr(index int, p netip.Prefix, typ uint16) {
	verb, flags := "add", uint16(unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if typ == unix.RTM_DELADDR {
		verb, flags = "delete", 0
	}
	header := []byte{family(p.Addr()), uint8(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	if p.Addr().Is6() {
		header[2] = unix.IFA_F_NODAD
	}
	header = native.AppendUint32(header, uint32(index))
	b.begin(verb+" address "+p.String(), typ, flags, header)
	b.attrAddr(unix.IFA_LOCAL, p.Addr())
	b.attrAddr(unix.IFA_ADDRESS, p.Addr())
}

// Route is an entry of the main routing table.
type Route struct {
	Dst   netip.Prefix
	Via   netip.Addr // next hop; the zero value: Dst is on the link itself
	Index int        // interface
	MTU   int        // 0: the interface's
	// Onlink says that Via is reached through the interface even though no
	// route says so.
	Onlink bool
	// Protocol says who made the route; 0 stands for RTPROT_STATIC. DelRoute
	// does not look at it.
	Protocol uint8
}

// AddRoute adds a route. The error is unix.EEXIST if there is one to the same
// destination with the same metric, on whatever interface.
func (b *Batch) AddRoute(r Route) {
	b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r)
}

// ReplaceRoute adds a route or changes the one to the same destination.
func (b *Batch) ReplaceRoute(r Route) {
	b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, r)
}

// DelRoute removes a route.
func (b *Batch) DelRoute(r Route) { b.route(unix.RTM_DELROUTE, 0, r) }

func (b *Batch) route(typ, flags uint16, r Route) {
	b.add(msg{describe: describeRoute}, typ, flags)
	b.routeHeader(typ, r)
	b.attrAddr(unix.RTA_DST, r.Dst.Addr())
	b.attr32(unix.RTA_OIF, uint32(r.Index))
	if r.Via.IsValid() {
		b.attrAddr(unix.RTA_GATEWAY, r.Via)
	}
	if r.MTU != 0 {
		b.nest(unix.RTA_METRICS, func() { b.attr32(unix.RTAX_MTU, uint32(r.MTU)) })
	}
}

// routeHeader appends a struct rtmsg.
func (b *Batch) routeHeader(typ uint16, r Route) {
	scope, protocol := uint8(unix.RT_SCOPE_UNIVERSE), r.Protocol
	if protocol == 0 {
		protocol = unix.RTPROT_STATIC
	}
	if !r.Via.IsValid() && r.Dst.Addr().Is4() {
		scope = unix.RT_SCOPE_LINK
	}
	if typ == unix.RTM_DELROUTE {
		// A deletion matches on what it names: here neither.
		scope, protocol = unix.RT_SCOPE_NOWHERE, unix.RTPROT_UNSPEC
	}
	var flags uint32
	if r.Onlink {
		flags = unix.RTNH_F_ONLINK
	}
	b.buf = append(b.buf, family(r.Dst.Addr()), uint8(r.Dst.Bits()), 0, 0, unix.RT_TABLE_MAIN, protocol, scope, unix.RTN_UNICAST)
	b.buf = native.AppendUint32(b.buf, flags)
}

func describeRoute(typ uint16, payload []byte) string {
	r := parseRoute(payload)
	text := verb(typ) + " route " + r.Dst.String()
	if r.Via.IsValid() {
		text += " via " + r.Via.String()
	}
	return text
}

func verb(typ uint16) string {
	if typ == unix.RTM_NEWROUTE || typ == unix.RTM_NEWNEIGH {
		return "set"
	}
	return "delete"
}

// Neighbor is a permanent entry that says which MAC address an address on a
// link has.
type Neighbor struct {
	Index int
	IP    netip.Addr
	MAC   net.HardwareAddr
}

const replaceNeighbor = unix.NLM_F_CREATE | unix.NLM_F_REPLACE

// ReplaceNeighbor adds an entry, or changes the one of the same address.
func (b *Batch) ReplaceNeighbor(n Neighbor) {
	b.neighbor(unix.RTM_NEWNEIGH, replaceNeighbor, ndmsg{family: family(n.IP), index: n.Index})
	b.attrAddr(unix.NDA_DST, n.IP)
	b.attr(unix.NDA_LLADDR, n.MAC)
}

// DelNeighbor removes the entry of an address.
func (b *Batch) DelNeighbor(n Neighbor) {
	b.neighbor(unix.RTM_DELNEIGH, 0, ndmsg{family: family(n.IP), index: n.Index})
	b.attrAddr(unix.NDA_DST, n.IP)
}

// ReplaceFDB adds a forwarding entry to a VXLAN device: frames to n.MAC go to
// the host n.IP. It changes the one of the same MAC address.
func (b *Batch) ReplaceFDB(n Neighbor) { b.forward(unix.RTM_NEWNEIGH, replaceNeighbor, n) }

// DelFDB removes the forwarding entry n.MAC to n.IP.
func (b *Batch) DelFDB(n Neighbor) { b.forward(unix.RTM_DELNEIGH, 0, n) }

func (b *Batch) forward(typ, flags uint16, n Neighbor) {
	b.neighbor(typ, flags, ndmsg{family: unix.AF_BRIDGE, ntf: unix.NTF_SELF, index: n.Index})
	b.attrAddr(unix.NDA_DST, n.IP)
	b.attr(unix.NDA_LLADDR, n.MAC)
}

// ndmsg is what differs in the struct ndmsg of our messages.
type ndmsg struct {
	family, ntf uint8
	index       int
}

// neighbor begins a message about a permanent entry.
func (b *Batch) neighbor(typ, flags uint16, m ndmsg) {
	b.add(msg{describe: describeNeighbor}, typ, flags)
	b.buf = append(b.buf, m.family, 0, 0, 0)
	b.buf = native.AppendUint32(b.buf, uint32(m.index))
	b.buf = native.AppendUint16(b.buf, unix.NUD_PERMANENT)
	b.buf = append(b.buf, m.ntf, 0)
}

func describeNeighbor(typ uint16, payload []byte) string {
	n := parseNeighbor(payload)
	text := verb(typ)
	switch {
	case n.Family == unix.AF_BRIDGE:
		return fmt.Sprintf("%s forwarding entry %s to %s", text, n.MAC, n.IP)
	case len(n.MAC) == 0:
		return fmt.Sprintf("%s neighbour %s", text, n.IP)
	}
	return fmt.Sprintf("%s neighbour %s to %s", text, n.IP, n.MAC)
}
