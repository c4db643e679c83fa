package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// list calls each for every entry of a list.
func (c *Conn) list(op string, typ uint16, body nl.Attrs, each func(body []byte)) error {
	// The entries of a list have the type of the message that creates such an
	// object.
	entry := typ - unix.RTM_GETLINK + unix.RTM_NEWLINK
	return c.nl.Dump(nl.Request{Type: typ, Op: op, Body: body}, func(m nl.Message) error {
		if m.Type == entry && len(m.Body) >= headerOf(entry) {
			each(m.Body)
		}
		return nil
	})
}

// The functions below that take an index ask the kernel to list one interface's
// entries. Kernels before 4.20 list all (see nl.Dial), so the functions filter,
// too. The index 0 stands for all interfaces.

// LinkEntry is an interface in a list of the kernel, without counters.
type LinkEntry struct {
	netlink.Link
	// AutoAddress says that the kernel adds a link-local IPv6 address when the
	// interface goes up (see Batch.SetNoAutoAddress).
	AutoAddress bool
	// ProtoDown says that a program has taken the carrier away.
	ProtoDown bool
	// XDP says that an XDP program is attached.
	XDP bool
	// data holds the options that only this kind of interface has (IFLA_INFO_DATA).
	data nl.Attrs
}

// EachLink lists the interfaces of a kind, such as "vxlan", or all if kind is
// empty.
func (c *Conn) EachLink(kind string, each func(LinkEntry)) error {
	body := ifInfo(0, 0).Uint32(unix.IFLA_EXT_MASK, extFilterSkipStats)
	if kind != "" {
		body = body.Nest(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nl.Attrs(nil).Text(unix.IFLA_INFO_KIND, kind))
	}
	var failed error
	err := c.list("list links", unix.RTM_GETLINK, body, func(body []byte) {
		link, err := netlink.LinkDeserialize(&unix.NlMsghdr{}, body)
		if err != nil {
			failed = err
		} else if kind == "" || link.Type() == kind {
			attrs := nl.Attrs(body[unix.SizeofIfInfomsg:])
			each(LinkEntry{
				Link: link, AutoAddress: autoAddress(attrs), ProtoDown: attrs.Get(iflaProtoDown).Uint8() != 0,
				XDP:  attrs.Get(unix.IFLA_XDP, iflaXDPAttached).Uint8() != 0,
				data: attrs.Get(unix.IFLA_LINKINFO, unix.IFLA_INFO_DATA).Attrs(),
			})
		}
	})
	return errors.Join(err, failed)
}

const (
	iflaProtoDown   = 39 // IFLA_PROTO_DOWN, linux/if_link.h
	iflaXDPAttached = 2  // IFLA_XDP_ATTACHED, linux/if_link.h
)

// autoAddress reads IFLA_INET6_ADDR_GEN_MODE. It is absent if the interface or
// the kernel has no IPv6.
func autoAddress(attrs nl.Attrs) bool {
	mode := attrs.Get(unix.IFLA_AF_SPEC, unix.AF_INET6, inet6AddrGenMode)
	return len(mode) == 1 && mode.Uint8() != noAddress
}

// AddrEntry is an address of an interface.
type AddrEntry struct {
	Index  int
	Prefix netip.Prefix // the host's own address, and the length of its network
	// Peer is the address of the other end of a point-to-point link. It is usually
	// unset.
	Peer  netip.Addr
	Scope uint8  // RT_SCOPE_UNIVERSE, ...
	Flags uint32 // IFA_F_*
	// Created is when the address was added, on the clock CLOCK_MONOTONIC.
	Created time.Duration
	Raw     []byte // the message's body, for DelDumped
}

// EachAddr lists addresses: IPv4 before IPv6.
func (c *Conn) EachAddr(index int, each func(AddrEntry)) error {
	for _, f := range family.All() {
		header := native.AppendUint32([]byte{byte(f), 0, 0, 0}, uint32(index))
		err := c.list("list addresses", unix.RTM_GETADDR, header, func(body []byte) {
			if a := parseAddr(body); body[0] == byte(f) && (index == 0 || a.Index == index) {
				each(a)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func parseAddr(payload []byte) AddrEntry {
	a := AddrEntry{Index: int(native.Uint32(payload[4:])), Scope: payload[3], Flags: uint32(payload[2]), Raw: payload}
	var local, address netip.Addr
	for typ, value := range nl.Attrs(payload[unix.SizeofIfAddrmsg:]).All() {
		switch typ {
		case unix.IFA_LOCAL:
			local = value.Addr()
		case unix.IFA_ADDRESS:
			address = value.Addr()
		case unix.IFA_CACHEINFO:
			a.Created = created(value)
		case unix.IFA_FLAGS: // all flags; the header has only the lower 8 bits
			a.Flags = value.Uint32()
		}
	}
	switch {
	case !local.IsValid(): // IPv6 without a peer
		local = address
	case local != address:
		a.Peer = address
	}
	a.Prefix = netip.PrefixFrom(local, int(payload[1]))
	return a
}

// created reads the third number of struct ifa_cacheinfo.
func created(cacheInfo []byte) time.Duration {
	if len(cacheInfo) < unix.SizeofIfaCacheinfo {
		return 0
	}
	return time.Duration(native.Uint32(cacheInfo[8:])) * 10 * time.Millisecond
}

// RouteEntry is a route in a list of the kernel. MTU is unset.
type RouteEntry struct {
	Route
	Table    uint32
	Metric   uint32
	Type     uint8 // RTN_UNICAST, ...
	Protocol uint8 // RTPROT_STATIC, ...
	// Src is the source address that the kernel prefers. It is usually unset.
	Src netip.Addr
	// Dead says that the kernel skips the route, because its interface is down.
	Dead bool
	// More lists the names of attributes that have no field here, such as "
	// metrics". It is empty for a plain route.
	More string
	// Apart says that the route has a TOS, a source, several next hops or a nexthop
	// object. ReplaceRoute with the same destination would not replace it.
	Apart bool
	// Indexes are the interfaces of a route with several next hops.
	Indexes []int
	Raw     []byte // the message's body, for DelDumped
}

// EachRoute lists the routes of one family, in all tables, that use an interface.
func (c *Conn) EachRoute(f family.Family, index int, each func(RouteEntry)) error {
	body := routeHeader(f, 0)
	if index != 0 {
		body = body.Uint32(unix.RTA_OIF, uint32(index))
	}
	return c.list("list routes", unix.RTM_GETROUTE, body, func(body []byte) {
		if body[0] != byte(f) {
			return
		}
		if r := parseRoute(body); index == 0 || r.Uses(index) {
			each(r)
		}
	})
}

// RouteTo returns the route that the kernel would use to an address.
func (c *Conn) RouteTo(dst netip.Addr) (RouteEntry, error) { return c.RouteFrom(netip.Addr{}, dst) }

// lookUp sends the request of RouteFrom.
func (c *Conn) lookUp(dst netip.Addr, body nl.Attrs) (RouteEntry, error) {
	m, err := c.nl.Get(nl.Request{Type: unix.RTM_GETROUTE, Op: "look up the route to " + dst.String(), Body: body})
	if err != nil || m.Type != unix.RTM_NEWROUTE || len(m.Body) < unix.SizeofRtMsg {
		return RouteEntry{}, err
	}
	return parseRoute(m.Body), nil
}

// routeHeader returns a struct rtmsg that asks for routes. Bits is the length of
// the destination in the attributes.
func routeHeader(f family.Family, bits int) nl.Attrs {
	return append(nl.Attrs{byte(f), byte(bits)}, make([]byte, unix.SizeofRtMsg-2)...)
}

// Uses reports whether one of the route's next hops uses the interface.
func (r *RouteEntry) Uses(index int) bool {
	return r.Index == index || slices.Contains(r.Indexes, index)
}

func parseRoute(payload []byte) RouteEntry {
	r := RouteEntry{Table: uint32(payload[4]), Protocol: payload[5], Type: payload[7], Raw: payload}
	flags := native.Uint32(payload[8:])
	r.Onlink, r.Dead = flags&unix.RTNH_F_ONLINK != 0, flags&unix.RTNH_F_DEAD != 0
	dst := unspecified(payload[0])
	for typ, value := range nl.Attrs(payload[unix.SizeofRtMsg:]).All() {
		switch typ {
		case unix.RTA_DST:
			dst = value.Addr()
		case unix.RTA_GATEWAY:
			r.Via = value.Addr()
		case unix.RTA_OIF:
			r.Index = int(value.Uint32())
		case unix.RTA_TABLE:
			r.Table = value.Uint32()
		case unix.RTA_PRIORITY:
			r.Metric = value.Uint32()
		case unix.RTA_PREFSRC:
			r.Src = value.Addr()
			r.more(typ)
		case unix.RTA_MULTIPATH:
			r.Indexes, r.Apart = nextHops(value), true
			r.more(typ)
		case unix.RTA_SRC, rtaNextHopID:
			r.Apart = true
			r.more(typ)
		case unix.RTA_CACHEINFO, unix.RTA_PREF:
			// Counters, and a preference that only routers on the link set.
		default:
			r.more(typ)
		}
	}
	if payload[3] != 0 {
		r.Apart = true
		r.More += " tos"
	}
	r.Dst = netip.PrefixFrom(dst, int(payload[1]))
	return r
}

const rtaNextHopID = 30 // RTA_NH_ID, linux/rtnetlink.h

// more notes an attribute that no field holds.
func (r *RouteEntry) more(typ uint16) {
	if name, ok := moreNames[typ]; ok {
		r.More += " " + name
	} else {
		r.More += fmt.Sprintf(" attribute %d", typ)
	}
}

var moreNames = map[uint16]string{
	unix.RTA_SRC: "from", unix.RTA_PREFSRC: "src", unix.RTA_METRICS: "metrics", unix.RTA_FLOW: "realm",
	unix.RTA_MULTIPATH: "several next hops", unix.RTA_ENCAP: "encap", rtaNextHopID: "nexthop object",
	unix.RTA_VIA: "next hop of another family", unix.RTA_EXPIRES: "expires",
}

// nextHops lists the interfaces in RTA_MULTIPATH (struct rtnexthop).
func nextHops(value []byte) []int {
	var indexes []int
	for len(value) >= unix.SizeofRtNexthop {
		indexes = append(indexes, int(native.Uint32(value[4:])))
		size := max(nl.Align(int(native.Uint16(value))), unix.SizeofRtNexthop)
		value = value[min(size, len(value)):]
	}
	return indexes
}

// NeighborEntry is an entry in a list of the kernel: of the neighbour tables, or
// of the forwarding table of a bridge or VXLAN device.
type NeighborEntry struct {
	Neighbor
	Family uint8  // AF_INET, AF_INET6; AF_BRIDGE for an FDB entry
	State  uint16 // NUD_*
	More   string // as in RouteEntry
	Raw    []byte // the message's body, for DelDumped
}

// EachNeighbor lists the neighbours (family AF_UNSPEC, AF_INET, AF_INET6) or
// FDB entries (AF_BRIDGE) of an interface.
func (c *Conn) EachNeighbor(f uint8, index int, each func(NeighborEntry)) error {
	body := append(nl.Attrs{f}, make([]byte, unix.SizeofNdMsg-1)...).Uint32(unix.NDA_IFINDEX, uint32(index))
	return c.list("list neighbours", unix.RTM_GETNEIGH, body, func(body []byte) {
		if n := parseNeighbor(body); n.Index == index && (f == unix.AF_UNSPEC || f == n.Family) {
			each(n)
		}
	})
}

func parseNeighbor(payload []byte) NeighborEntry {
	n := NeighborEntry{Family: payload[0], State: native.Uint16(payload[8:]), Raw: payload}
	n.Index = int(native.Uint32(payload[4:]))
	for typ, value := range nl.Attrs(payload[unix.SizeofNdMsg:]).All() {
		switch typ {
		case unix.NDA_DST:
			n.IP = value.Addr()
		case unix.NDA_LLADDR:
			n.MAC = net.HardwareAddr(value)
		case unix.NDA_PORT:
			n.More += fmt.Sprintf(" port %d", value.Uint16BE())
		case unix.NDA_VNI:
			n.More += fmt.Sprintf(" vni %d", value.Uint32())
		case unix.NDA_IFINDEX:
			n.More += fmt.Sprintf(" via interface %d", value.Uint32())
		case ndaNextHopID:
			n.More += fmt.Sprintf(" nexthop object %d", value.Uint32())
		}
	}
	return n
}

const ndaNextHopID = 13 // NDA_NH_ID, linux/neighbour.h

// native is the byte order of the kernel's headers.
var native = binary.NativeEndian

func unspecified(family uint8) netip.Addr {
	if family == unix.AF_INET {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
