package hostport

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// native is the byte order of netlink's own headers. What nf_tables and
// conntrack put into attributes is in network byte order.
var native = binary.NativeEndian

// attrs is a list of netlink attributes as the kernel has them: length, type,
// payload, padding. The methods that add to it return the longer list.
type attrs []byte

const attrHeader = unix.SizeofNlAttr

func (a attrs) bytes(typ int, payload []byte) attrs {
	a = native.AppendUint16(a, uint16(attrHeader+len(payload)))
	a = native.AppendUint16(a, uint16(typ))
	return pad(append(a, payload...))
}

func (a attrs) text(typ int, s string) attrs { return a.bytes(typ, append([]byte(s), 0)) }

func (a attrs) u8(typ int, v byte) attrs { return a.bytes(typ, []byte{v}) }

func (a attrs) u16(typ int, v uint16) attrs {
	return a.bytes(typ, binary.BigEndian.AppendUint16(nil, v))
}

func (a attrs) u32(typ int, v uint32) attrs {
	return a.bytes(typ, binary.BigEndian.AppendUint32(nil, v))
}

func (a attrs) nest(typ int, inner attrs) attrs { return a.bytes(typ, inner) }

func pad(b []byte) []byte {
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// all yields the attributes. What is cut short ends the list.
func (a attrs) all() iter.Seq2[int, attrs] {
	// The two highest bits of a type are flags.
	const typeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	return func(yield func(int, attrs) bool) {
		for rest := a; len(rest) >= attrHeader; {
			size := int(native.Uint16(rest))
			if size < attrHeader || size > len(rest) {
				return
			}
			if !yield(int(native.Uint16(rest[2:])&typeMask), rest[attrHeader:size]) {
				return
			}
			rest = rest[min(align(size), len(rest)):]
		}
	}
}

// get is the payload of the attribute at the end of a path of types, nil if
// there is none.
func (a attrs) get(path ...int) attrs {
	for _, typ := range path {
		var found attrs
		for t, payload := range a.all() {
			if t == typ {
				found = payload
				break
			}
		}
		a = found
	}
	return a
}

// string is a text without the zero that ends it.
func (a attrs) string() string {
	if n := len(a); n > 0 && a[n-1] == 0 {
		return string(a[:n-1])
	}
	return string(a)
}

func (a attrs) number() uint32 {
	switch len(a) {
	case 1:
		return uint32(a[0])
	case 2:
		return uint32(binary.BigEndian.Uint16(a))
	case 4:
		return binary.BigEndian.Uint32(a)
	}
	return 0
}

// message is a message to or from netfilter, without the netlink header's
// bookkeeping.
type message struct {
	typ   uint16 // subsystem and its own type
	flags uint16
	head  [4]byte // struct nfgenmsg: family, version, resource
	body  attrs
}

// Subsystems of netfilter's netlink.
const (
	conntrackSystem = 1 // NFNL_SUBSYS_CTNETLINK
	tablesSystem    = unix.NFNL_SUBSYS_NFTABLES
)

// tables is a message about nf_tables, family inet.
func tables(typ, flags int, body attrs) message {
	return message{
		typ: tablesSystem<<8 | uint16(typ), flags: uint16(flags),
		head: [4]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0}, body: body,
	}
}

// bound is the message that begins or ends a transaction. The resource is the
// subsystem that it is for.
func bound(typ uint16, body attrs) message {
	return message{typ: typ, head: [4]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, tablesSystem}, body: body}
}

func (m message) append(b []byte, seq uint32) []byte {
	size := unix.NLMSG_HDRLEN + len(m.head) + len(m.body)
	b = native.AppendUint32(b, uint32(size))
	b = native.AppendUint16(b, m.typ)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|m.flags)
	b = native.AppendUint32(b, seq)
	b = native.AppendUint32(b, 0) // the kernel fills in the port
	b = append(b, m.head[:]...)
	return append(b, m.body...) // attributes are padded
}
