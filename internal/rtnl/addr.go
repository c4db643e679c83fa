package rtnl

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// AddAddr adds an address to an interface. An IPv6 address is usable at once,
// because the kernel skips duplicate address detection, which takes a second.
func (b *Batch) AddAddr(index int, p netip.Prefix) *nl.Request {
	return b.addr(index, p, unix.RTM_NEWADDR)
}

// DelAddr removes an address from an interface.
func (b *Batch) DelAddr(index int, p netip.Prefix) *nl.Request {
	return b.addr(index, p, unix.RTM_DELADDR)
}

func (b *Batch) addr(index int, p netip.Prefix, typ uint16) *nl.Request {
	verb, flags := "add", uint16(unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if typ == unix.RTM_DELADDR {
		verb, flags = "delete", 0
	}
	header := []byte{byte(family.Of(p.Addr())), uint8(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	if p.Addr().Is6() {
		header[2] = unix.IFA_F_NODAD
	}
	body := nl.Attrs(native.AppendUint32(header, uint32(index))).
		Addr(unix.IFA_LOCAL, p.Addr()).Addr(unix.IFA_ADDRESS, p.Addr())
	return b.add(verb+" address "+p.String(), typ, flags, body)
}

// Route is an entry of the main routing table.
type Route struct {
	Dst   netip.Prefix
	Via   netip.Addr // next hop; the zero value: Dst is on the link itself
	Index int        // interface
	MTU   int        // 0: the interface's
	// Onlink tells the kernel that Via is on the interface's link, although no
	// route leads to it.
	Onlink bool
	// Protocol (RTPROT_*) says who installed the route; 0 stands for RTPROT_STATIC.
	// DelRoute ignores it.
	Protocol uint8
}

// AddRoute adds a route. The error is unix.EEXIST if any interface has a route to
// the same destination with the same metric.
func (b *Batch) AddRoute(r Route) *nl.Request {
	return b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r)
}

// ReplaceRoute adds a route, or replaces the route to the same destination.
func (b *Batch) ReplaceRoute(r Route) *nl.Request {
	return b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, r)
}

// DelRoute removes a route.
func (b *Batch) DelRoute(r Route) *nl.Request { return b.route(unix.RTM_DELROUTE, 0, r) }

func (b *Batch) route(typ, flags uint16, r Route) *nl.Request {
	body := r.header(typ).Addr(unix.RTA_DST, r.Dst.Addr()).Uint32(unix.RTA_OIF, uint32(r.Index))
	if r.Via.IsValid() {
		body = body.Addr(unix.RTA_GATEWAY, r.Via)
	}
	if r.MTU != 0 {
		body = body.Nest(unix.RTA_METRICS, nl.Attrs(nil).Uint32(unix.RTAX_MTU, uint32(r.MTU)))
	}
	return b.addMany(describeRoute, typ, flags, body)
}

// header returns a struct rtmsg.
func (r Route) header(typ uint16) nl.Attrs {
	scope, protocol := uint8(unix.RT_SCOPE_UNIVERSE), r.Protocol
	if protocol == 0 {
		protocol = unix.RTPROT_STATIC
	}
	if !r.Via.IsValid() && r.Dst.Addr().Is4() {
		scope = unix.RT_SCOPE_LINK
	}
	if typ == unix.RTM_DELROUTE {
		// A deletion ignores scope and protocol if they have these values.
		scope, protocol = unix.RT_SCOPE_NOWHERE, unix.RTPROT_UNSPEC
	}
	var flags uint32
	if r.Onlink {
		flags = unix.RTNH_F_ONLINK
	}
	const typical = 64 // bytes of a message about a route or neighbour
	b := append(make(nl.Attrs, 0, typical),
		byte(family.Of(r.Dst.Addr())), uint8(r.Dst.Bits()), 0, 0, unix.RT_TABLE_MAIN, protocol, scope, unix.RTN_UNICAST)
	return native.AppendUint32(b, flags)
}

func describeRoute(request *nl.Request) string {
	r := parseRoute(request.Body)
	text := verb(request.Type) + " route " + r.Dst.String()
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

// Neighbor is a permanent entry of a neighbour table, or of the forwarding table
// of a VXLAN device.
type Neighbor struct {
	Index int
	IP    netip.Addr
	MAC   net.HardwareAddr
}

const replaceNeighbor = unix.NLM_F_CREATE | unix.NLM_F_REPLACE

// ReplaceNeighbor adds an entry, or replaces the entry for the same IP address.
func (b *Batch) ReplaceNeighbor(n Neighbor) *nl.Request {
	body := n.header(family.Of(n.IP), 0).Addr(unix.NDA_DST, n.IP).Bytes(unix.NDA_LLADDR, n.MAC)
	return b.addMany(describeNeighbor, unix.RTM_NEWNEIGH, replaceNeighbor, body)
}

// DelNeighbor removes the entry of an address.
func (b *Batch) DelNeighbor(n Neighbor) *nl.Request {
	body := n.header(family.Of(n.IP), 0).Addr(unix.NDA_DST, n.IP)
	return b.addMany(describeNeighbor, unix.RTM_DELNEIGH, 0, body)
}

// ReplaceFDB adds an FDB entry to a VXLAN device, or replaces the entry for the
// same MAC address: frames to n.MAC go to the host n.IP.
func (b *Batch) ReplaceFDB(n Neighbor) *nl.Request {
	return b.addMany(describeNeighbor, unix.RTM_NEWNEIGH, replaceNeighbor, n.fdbEntry())
}

// DelFDB removes the FDB entry n.MAC to n.IP.
func (b *Batch) DelFDB(n Neighbor) *nl.Request {
	return b.addMany(describeNeighbor, unix.RTM_DELNEIGH, 0, n.fdbEntry())
}

func (n Neighbor) fdbEntry() nl.Attrs {
	return n.header(unix.AF_BRIDGE, unix.NTF_SELF).Addr(unix.NDA_DST, n.IP).Bytes(unix.NDA_LLADDR, n.MAC)
}

// header returns a struct ndmsg about a permanent entry. The family may also be
// AF_BRIDGE.
func (n Neighbor) header(f family.Family, ntf uint8) nl.Attrs {
	const typical = 64 // bytes of the message
	b := append(make([]byte, 0, typical), byte(f), 0, 0, 0)
	b = native.AppendUint32(b, uint32(n.Index))
	b = native.AppendUint16(b, unix.NUD_PERMANENT)
	return append(b, ntf, 0)
}

func describeNeighbor(r *nl.Request) string {
	n := parseNeighbor(r.Body)
	text := verb(r.Type)
	switch {
	case n.Family == unix.AF_BRIDGE:
		return fmt.Sprintf("%s FDB entry %s to %s", text, n.MAC, n.IP)
	case len(n.MAC) == 0:
		return fmt.Sprintf("%s neighbour %s", text, n.IP)
	}
	return fmt.Sprintf("%s neighbour %s to %s", text, n.IP, n.MAC)
}
