package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrInterrupted says that what was listed changed meanwhile, so that the list
// may lack entries or hold some twice. Asking again is the remedy.
var ErrInterrupted = errors.New("the kernel's tables changed while they were listed")

// begunDump starts a batch with the one message of a dump.
func begunDump(op string, typ uint16, header []byte) *Batch {
	var b Batch
	b.begin(op, typ, unix.NLM_F_DUMP, header)
	return &b
}

// Each of the functions below asks the kernel to filter by interface, which it
// does where it checks requests strictly (since 4.20, see Open), and filters
// again for older ones. The index 0 stands for all interfaces. What they give
// to each is valid during that call only.

// LinkEntry is an interface as the kernel lists it, without counters.
type LinkEntry struct {
	netlink.Link
	// AutoAddress says that the kernel gives the interface a link-local IPv6
	// address by itself (see Batch.SetNoAutoAddress).
	AutoAddress bool
	// data is what the interface has as one of its kind (IFLA_INFO_DATA).
	data []byte
}

// EachLink lists the interfaces of a kind such as "vxlan"; of all kinds if it
// is empty.
func (c *Conn) EachLink(kind string, each func(LinkEntry)) error {
	b := begunDump("list links", unix.RTM_GETLINK, ifInfo(0, 0))
	b.attr32(unix.IFLA_EXT_MASK, extFilterSkipStats)
	if kind != "" {
		b.nest(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, func() { b.attrString(unix.IFLA_INFO_KIND, kind) })
	}
	return c.query(b, func(typ uint16, payload []byte) error {
		if typ != unix.RTM_NEWLINK {
			return nil
		}
		link, err := netlink.LinkDeserialize(&unix.NlMsghdr{}, payload)
		if err == nil && (kind == "" || link.Type() == kind) {
			info := find(payload[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO)
			each(LinkEntry{Link: link, AutoAddress: autoAddress(payload), data: find(info, unix.IFLA_INFO_DATA)})
		}
		return err
	})
}

// autoAddress reads IFLA_INET6_ADDR_GEN_MODE, which is absent where the
// interface or the kernel is without IPv6.
func autoAddress(payload []byte) bool {
	spec := find(payload[unix.SizeofIfInfomsg:], unix.IFLA_AF_SPEC)
	mode := find(find(spec, unix.AF_INET6), inet6AddrGenMode)
	return len(mode) == 1 && mode[0] != noAddress
}

// AddrEntry is an address of an interface.
type AddrEntry struct {
	Index  int
	Prefix netip.Prefix // the host's own address, and the length of its network
	// Peer is the other end's address where the interface was given one.
	Peer  netip.Addr
	Scope uint8  // RT_SCOPE_UNIVERSE, ...
	Flags uint32 // IFA_F_*
	Raw   []byte
}

// EachAddr lists addresses: IPv4 before IPv6.
func (c *Conn) EachAddr(index int, each func(AddrEntry)) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		header := native.AppendUint32([]byte{family, 0, 0, 0}, uint32(index))
		b := begunDump("list addresses", unix.RTM_GETADDR, header)
		err := c.query(b, func(typ uint16, payload []byte) error {
			if typ != unix.RTM_NEWADDR || len(payload) < unix.SizeofIfAddrmsg || payload[0] != family {
				return nil
			}
			if a := parseAddr(payload); index == 0 || a.Index == index {
				each(a)
			}
			return nil
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
	eachAttr(payload[unix.SizeofIfAddrmsg:], func(typ uint16, value []byte) {
		switch typ {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(value)
		case unix.IFA_FLAGS: // all of them; the header has room for eight
			if len(value) == 4 {
				a.Flags = native.Uint32(value)
			}
		}
	})
	switch {
	case !local.IsValid(): // IPv6 without a peer
		local = address
	case local != address:
		a.Peer = address
	}
	a.Prefix = netip.PrefixFrom(local, int(payload[1]))
	return a
}

// RouteEntry is a route as the kernel lists it. MTU is not read.
type RouteEntry struct {
	Route
	Table    uint32
	Metric   uint32
	Type     uint8 // RTN_UNICAST, ...
	Protocol uint8 // RTPROT_STATIC, ...
	// More says in words what the route has beyond the fields above, such as
	// several next hops; empty if nothing.
	More string
	// Apart says that the kernel would keep a plain route to the same
	// destination beside this one, or could not put one in its place: it has a
	// TOS or source, several next hops or a nexthop object.
	Apart bool
	// Indexes are the interfaces of a route with several next hops.
	Indexes []int
	Raw     []byte
}

// EachRoute lists the routes of one family (AF_INET, AF_INET6) in all tables
// that use an interface.
func (c *Conn) EachRoute(family uint8, index int, each func(RouteEntry)) error {
	b := begunDump("list routes", unix.RTM_GETROUTE, routeHeader(family))
	if index != 0 {
		b.attr32(unix.RTA_OIF, uint32(index))
	}
	return c.query(b, func(typ uint16, payload []byte) error {
		if typ != unix.RTM_NEWROUTE || len(payload) < unix.SizeofRtMsg || payload[0] != family {
			return nil
		}
		if r := parseRoute(payload); index == 0 || r.Uses(index) {
			each(r)
		}
		return nil
	})
}

// RouteTo asks which way the kernel would send to an address.
func (c *Conn) RouteTo(dst netip.Addr) (RouteEntry, error) {
	var b Batch
	header := routeHeader(family(dst))
	header[1] = uint8(dst.BitLen())
	b.begin("look up the route to "+dst.String(), unix.RTM_GETROUTE, 0, header)
	b.attrAddr(unix.RTA_DST, dst)
	var route RouteEntry
	err := c.query(&b, func(typ uint16, payload []byte) error {
		if typ == unix.RTM_NEWROUTE && len(payload) >= unix.SizeofRtMsg {
			route = parseRoute(payload)
			route.Raw = nil
		}
		return nil
	})
	return route, err
}

func routeHeader(family uint8) []byte {
	return append([]byte{family}, make([]byte, unix.SizeofRtMsg-1)...)
}

// Uses says that the route leads over an interface, be it by one of several
// next hops.
func (r *RouteEntry) Uses(index int) bool {
	return r.Index == index || slices.Contains(r.Indexes, index)
}

func parseRoute(payload []byte) RouteEntry {
	r := RouteEntry{Table: uint32(payload[4]), Protocol: payload[5], Type: payload[7], Raw: payload}
	r.Onlink = native.Uint32(payload[8:])&unix.RTNH_F_ONLINK != 0
	dst := unspecified(payload[0])
	eachAttr(payload[unix.SizeofRtMsg:], func(typ uint16, value []byte) {
		switch typ {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(value)
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(value)
		case unix.RTA_OIF:
			r.Index = int(uint32Of(value))
		case unix.RTA_TABLE:
			r.Table = uint32Of(value)
		case unix.RTA_PRIORITY:
			r.Metric = uint32Of(value)
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
	})
	if payload[3] != 0 {
		r.Apart = true
		r.More += " tos"
	}
	r.Dst = netip.PrefixFrom(dst, int(payload[1]))
	return r
}

const rtaNextHopID = 30 // RTA_NH_ID, linux/rtnetlink.h

// more is about the attributes that no field holds.
func (r *RouteEntry) more(typ uint16) {
	names := map[uint16]string{
		unix.RTA_SRC: "from", unix.RTA_PREFSRC: "src", unix.RTA_METRICS: "metrics", unix.RTA_FLOW: "realm",
		unix.RTA_MULTIPATH: "several next hops", unix.RTA_ENCAP: "encap", rtaNextHopID: "nexthop object",
		unix.RTA_VIA: "next hop of another family", unix.RTA_EXPIRES: "expires",
	}
	if name, ok := names[typ]; ok {
		r.More += " " + name
	} else {
		r.More += fmt.Sprintf(" attribute %d", typ)
	}
}

// nextHops lists the interfaces in RTA_MULTIPATH (struct rtnexthop).
func nextHops(value []byte) []int {
	var indexes []int
	for len(value) >= unix.SizeofRtNexthop {
		indexes = append(indexes, int(native.Uint32(value[4:])))
		size := max(align(int(native.Uint16(value))), unix.SizeofRtNexthop)
		value = value[min(size, len(value)):]
	}
	return indexes
}

// NeighborEntry is an entry of the neighbour tables, or of the forwarding
// table of a bridge or VXLAN device.
type NeighborEntry struct {
	Neighbor
	Family uint8 // AF_INET, AF_INET6; AF_BRIDGE for a forwarding entry
	State  uint16
	// More is as in RouteEntry.
	More string
	Raw  []byte
}

// EachNeighbor lists the neighbours (family AF_UNSPEC, AF_INET, AF_INET6) or
// forwarding entries (AF_BRIDGE) of an interface.
func (c *Conn) EachNeighbor(family uint8, index int, each func(NeighborEntry)) error {
	b := begunDump("list neighbours", unix.RTM_GETNEIGH, append([]byte{family}, make([]byte, unix.SizeofNdMsg-1)...))
	b.attr32(unix.NDA_IFINDEX, uint32(index))
	return c.query(b, func(typ uint16, payload []byte) error {
		if typ != unix.RTM_NEWNEIGH || len(payload) < unix.SizeofNdMsg || int(native.Uint32(payload[4:])) != index {
			return nil
		}
		if family == unix.AF_UNSPEC || family == payload[0] {
			each(parseNeighbor(payload))
		}
		return nil
	})
}

func parseNeighbor(payload []byte) NeighborEntry {
	n := NeighborEntry{Family: payload[0], State: native.Uint16(payload[8:]), Raw: payload}
	n.Index = int(native.Uint32(payload[4:]))
	eachAttr(payload[unix.SizeofNdMsg:], func(typ uint16, value []byte) {
		switch typ {
		case unix.NDA_DST:
			n.IP, _ = netip.AddrFromSlice(value)
		case unix.NDA_LLADDR:
			n.MAC = net.HardwareAddr(value)
		case unix.NDA_PORT:
			n.More += fmt.Sprintf(" port %d", binary.BigEndian.Uint16(value))
		case unix.NDA_VNI:
			n.More += fmt.Sprintf(" vni %d", uint32Of(value))
		case unix.NDA_IFINDEX:
			n.More += fmt.Sprintf(" via interface %d", uint32Of(value))
		case ndaNextHopID:
			n.More += fmt.Sprintf(" nexthop object %d", uint32Of(value))
		}
	})
	return n
}

const ndaNextHopID = 13 // NDA_NH_ID, linux/neighbour.h

// eachAttr walks attributes. A broken one ends the walk: the kernel makes none.
func eachAttr(attrs []byte, each func(typ uint16, value []byte)) {
	for len(attrs) >= unix.SizeofRtAttr {
		size := int(native.Uint16(attrs))
		if size < unix.SizeofRtAttr || size > len(attrs) {
			return
		}
		each(native.Uint16(attrs[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), attrs[unix.SizeofRtAttr:size])
		attrs = attrs[min(align(size), len(attrs)):]
	}
}

// find is the value of an attribute, nil if there is none.
func find(attrs []byte, typ uint16) []byte {
	var found []byte
	eachAttr(attrs, func(t uint16, value []byte) {
		if t == typ {
			found = value
		}
	})
	return found
}

// uint32Of tolerates an attribute that is too short.
func uint32Of(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return native.Uint32(value)
}

func unspecified(family uint8) netip.Addr {
	if family == unix.AF_INET {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
