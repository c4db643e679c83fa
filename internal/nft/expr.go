package nft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Expr is one instruction of the kernel's rule machine.
type Expr struct {
	Name string   // the kernel's name: "cmp", "lookup"
	Data nl.Attrs // attributes of the instruction's own kind
}

// canonical is a text that is the same for the same instruction, whether it was
// made here or listed by the kernel. Kernels differ in the order of attributes,
// and in whether they list attributes whose value is zero. A counter's values
// don't count.
func (e Expr) canonical() string {
	if e.Name == "counter" {
		return e.Name
	}
	return fmt.Sprintf("%s(%s)", e.Name, canonical(e.Data))
}

// canonical writes the attributes that are not zero: those of the types, or all
// if no types are given.
func canonical(a nl.Attrs, types ...uint16) string {
	values := map[uint16]nl.Value{}
	for typ, v := range a.All() {
		if strings.Trim(string(v), "\x00") != "" {
			values[typ] = v
		}
	}
	if len(types) == 0 {
		types = slices.Sorted(maps.Keys(values))
	}
	var parts []string
	for _, typ := range types {
		if v, there := values[typ]; there {
			parts = append(parts, fmt.Sprintf("%d=%x", typ, []byte(v)))
		}
	}
	return strings.Join(parts, " ")
}

// canonical is a text that is the same for rules that do the same and have the
// same comment.
func (r Rule) canonical() string {
	parts := []string{fmt.Sprintf("%q", r.Comment)}
	for _, e := range r.Exprs {
		parts = append(parts, e.canonical())
	}
	return strings.Join(parts, " ")
}

// Equal reports whether two rules do the same and have the same comment.
// Handles and counters' values don't count.
func (r Rule) Equal(o Rule) bool { return r.canonical() == o.canonical() }

// registerSize is the size of a register in bytes. There are 16 of them.
const registerSize = unix.NFT_REG32_SIZE

// found is the first register of the data that a lookup in a map loads. Keys
// begin at register 0.
const found = 8

// register is the number that the kernel uses when it lists a register: a
// register at the beginning of one of the old registers, which are four times as
// wide, has the old register's number.
func register(n int) uint32 {
	const wide = unix.NFT_REG_SIZE / unix.NFT_REG32_SIZE
	if n%wide == 0 {
		return uint32(unix.NFT_REG_1 + n/wide)
	}
	return uint32(unix.NFT_REG32_00 + n)
}

// Field is what a rule takes from a packet to compare it or look it up: one
// thing, or several in a row.
type Field []part

type part struct {
	size int // bytes
	load func(register uint32) Expr
}

// Meta is a property that the kernel knows of a packet, such as its interface
// (NFT_META_*).
func Meta(key uint32, size int) Field {
	return Field{{size, func(to uint32) Expr {
		return Expr{"meta", nl.Attrs{}.Uint32BE(unix.NFTA_META_KEY, key).Uint32BE(unix.NFTA_META_DREG, to)}
	}}}
}

// InName is the name of the interface by which a packet comes, see PadName.
func InName() Field { return Meta(unix.NFT_META_IIFNAME, unix.IFNAMSIZ) }

// OutName is the name of the interface by which a packet goes, see PadName.
func OutName() Field { return Meta(unix.NFT_META_OIFNAME, unix.IFNAMSIZ) }

// L4Proto is the number of a packet's transport protocol (IPPROTO_*).
func L4Proto() Field { return Meta(unix.NFT_META_L4PROTO, 1) }

// Payload is a part of a header (NFT_PAYLOAD_*).
func Payload(base uint32, offset, size int) Field {
	return Field{{size, func(to uint32) Expr {
		return Expr{"payload", nl.Attrs{}.
			Uint32BE(unix.NFTA_PAYLOAD_DREG, to).Uint32BE(unix.NFTA_PAYLOAD_BASE, base).
			Uint32BE(unix.NFTA_PAYLOAD_OFFSET, uint32(offset)).Uint32BE(unix.NFTA_PAYLOAD_LEN, uint32(size))}
	}}}
}

// Source is the source address of a packet of the family, and Destination its
// destination address (RFC 791, RFC 8200). With size they are the address's
// first bytes.
func Source(f family.Family, size int) Field {
	return Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, addressOffset(f), size)
}

// Destination is described at Source.
func Destination(f family.Family, size int) Field {
	return Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, addressOffset(f)+f.Bytes(), size)
}

func addressOffset(f family.Family) int {
	if f == family.IPv4 {
		return 12
	}
	return 8
}

// EtherSource is the MAC address that a frame comes from.
func EtherSource() Field { return Payload(unix.NFT_PAYLOAD_LL_HEADER, 6, 6) }

// EtherType is the protocol in a frame (ETH_P_*), big-endian. For a frame with a
// VLAN tag it is that of the tag, wherever the kernel keeps the tag.
func EtherType() Field { return Payload(unix.NFT_PAYLOAD_LL_HEADER, 12, 2) }

// DestinationPort is the port that a packet of TCP, UDP or SCTP goes to,
// big-endian: all three have the port at the same place.
func DestinationPort() Field { return Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2) }

// ICMPType is the type of an ICMP message, of either family (RFC 792, RFC 4443).
func ICMPType() Field { return Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1) }

// FragmentOffset is where an IPv6 fragment belongs, with flags in the last three bits
// (RFC 8200, 4.5): below 8 for the first fragment. A packet that is no fragment has
// none, so no comparison passes it.
func FragmentOffset() Field {
	return Field{{2, func(to uint32) Expr {
		return Expr{"exthdr", nl.Attrs{}.Uint32BE(unix.NFTA_EXTHDR_DREG, to).Uint8(unix.NFTA_EXTHDR_TYPE, unix.IPPROTO_FRAGMENT).
			Uint32BE(unix.NFTA_EXTHDR_OFFSET, 2).Uint32BE(unix.NFTA_EXTHDR_LEN, 2)}
	}}}
}

// DestinationKind is what the packet's destination is to this host: RTN_LOCAL for
// its own addresses.
func DestinationKind() Field {
	return Field{{4, func(to uint32) Expr {
		return Expr{"fib", nl.Attrs{}.Uint32BE(unix.NFTA_FIB_DREG, to).
			Uint32BE(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE).Uint32BE(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR)}
	}}}
}

// VXLANNetwork is the VNI of a packet that is UDP and, on top of it, VXLAN (RFC
// 7348): 3 bytes. A packet without such bytes, the first fragment of one for
// example, passes neither Is nor IsNot.
func VXLANNetwork() Field {
	const udp, flags = 8, 4
	return Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, udp+flags, 3)
}

// And returns the fields in a row, as a key of a concatenation needs them.
func (f Field) And(others ...Field) Field {
	all := slices.Clone(f)
	for _, o := range others {
		all = append(all, o...)
	}
	return all
}

// loads puts the fields into the registers from 0 on.
func (f Field) loads() []Expr {
	var exprs []Expr
	n := 0
	for _, p := range f {
		exprs = append(exprs, p.load(register(n)))
		n += nl.Align(p.size) / registerSize
	}
	return exprs
}

// Is passes packets that have the value. A value that is shorter than the field is
// compared with the field's first bytes.
func (f Field) Is(value ...byte) []Expr { return f.compare(unix.NFT_CMP_EQ, value) }

// IsNot passes packets that have another value, see Is.
func (f Field) IsNot(value ...byte) []Expr { return f.compare(unix.NFT_CMP_NEQ, value) }

// IsAtLeast passes packets whose value, big-endian, is not less.
func (f Field) IsAtLeast(value ...byte) []Expr { return f.compare(unix.NFT_CMP_GTE, value) }

// HasNone passes packets whose value has none of the bits set. The field is at most
// four bytes long.
func (f Field) HasNone(bits ...byte) []Expr {
	value := func(b []byte) nl.Attrs { return nl.Attrs{}.Bytes(unix.NFTA_DATA_VALUE, b) }
	zero := make([]byte, len(bits))
	return append(f.loads(),
		Expr{"bitwise", nl.Attrs{}.Uint32BE(unix.NFTA_BITWISE_SREG, register(0)).Uint32BE(unix.NFTA_BITWISE_DREG, register(0)).
			Uint32BE(unix.NFTA_BITWISE_LEN, uint32(len(bits))).
			Nest(unix.NFTA_BITWISE_MASK, value(bits)).Nest(unix.NFTA_BITWISE_XOR, value(zero))},
		Expr{"cmp", nl.Attrs{}.Uint32BE(unix.NFTA_CMP_SREG, register(0)).Uint32BE(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ).
			Nest(unix.NFTA_CMP_DATA, value(zero))})
}

func (f Field) compare(op uint32, value []byte) []Expr {
	return append(f.loads(), Expr{"cmp", nl.Attrs{}.
		Uint32BE(unix.NFTA_CMP_SREG, register(0)).Uint32BE(unix.NFTA_CMP_OP, op).
		Nest(unix.NFTA_CMP_DATA, nl.Attrs{}.Bytes(unix.NFTA_DATA_VALUE, value))})
}

// IsFamily passes packets of the family.
func IsFamily(f family.Family) []Expr { return Meta(unix.NFT_META_NFPROTO, 1).Is(byte(f)) }

// IsLocal passes packets to an address of this host.
func IsLocal() []Expr {
	return DestinationKind().Is(binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)...)
}

// IsRedirected passes packets of connections whose destination this host replaced:
// ports of the host that lead elsewhere, Kubernetes' Services.
func IsRedirected() []Expr {
	const (
		sreg, dreg, length, mask, xor = 1, 2, 3, 4, 5 // NFTA_BITWISE_*
		ctDreg, ctKey                 = 1, 2          // NFTA_CT_*
		dnat                          = 1 << 5        // IPS_DST_NAT
	)
	number := func(v uint32) nl.Attrs {
		return nl.Attrs{}.Bytes(unix.NFTA_DATA_VALUE, binary.NativeEndian.AppendUint32(nil, v))
	}
	r := register(0)
	return []Expr{
		{"ct", nl.Attrs{}.Uint32BE(ctDreg, r).Uint32BE(ctKey, unix.NFT_CT_STATUS)},
		{"bitwise", nl.Attrs{}.Uint32BE(sreg, r).Uint32BE(dreg, r).Uint32BE(length, registerSize).Nest(mask, number(dnat)).Nest(xor, number(0))},
		{"cmp", nl.Attrs{}.Uint32BE(unix.NFTA_CMP_SREG, r).Uint32BE(unix.NFTA_CMP_OP, unix.NFT_CMP_NEQ).Nest(unix.NFTA_CMP_DATA, number(0))},
	}
}

// NoTrack keeps a packet out of connection tracking. It has an effect in chains of
// priority raw only.
func NoTrack() []Expr { return []Expr{{"notrack", nil}} }

// In passes packets whose fields are in the set.
func (f Field) In(set string) []Expr {
	return append(f.loads(), Expr{"lookup", lookup(set)})
}

// NotIn passes packets whose fields are not in the set.
func (f Field) NotIn(set string) []Expr {
	return append(f.loads(), Expr{"lookup", lookup(set).Uint32BE(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)})
}

// Find passes packets whose fields are in the map, and loads the data for the
// next statement, such as DNAT.
func (f Field) Find(set string) []Expr {
	return append(f.loads(), Expr{"lookup", lookup(set).Uint32BE(unix.NFTA_LOOKUP_DREG, register(found))})
}

func lookup(set string) nl.Attrs {
	return nl.Attrs{}.Text(unix.NFTA_LOOKUP_SET, set).Uint32BE(unix.NFTA_LOOKUP_SREG, register(0))
}

// DNAT gives the packet the address and the port that Find loaded. Newer kernels
// set the flags by themselves.
func DNAT(f family.Family) []Expr {
	a, p := register(found), register(found+f.Bytes()/registerSize)
	return []Expr{{"nat", nl.Attrs{}.
		Uint32BE(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT).Uint32BE(unix.NFTA_NAT_FAMILY, uint32(f)).
		Uint32BE(unix.NFTA_NAT_REG_ADDR_MIN, a).Uint32BE(unix.NFTA_NAT_REG_ADDR_MAX, a).
		Uint32BE(unix.NFTA_NAT_REG_PROTO_MIN, p).Uint32BE(unix.NFTA_NAT_REG_PROTO_MAX, p).
		Uint32BE(unix.NFTA_NAT_FLAGS, unix.NF_NAT_RANGE_MAP_IPS|unix.NF_NAT_RANGE_PROTO_SPECIFIED)}}
}

// Masquerade gives the packet the address of the interface by which it leaves,
// and a random port. If the kernel chose ports in sequence, simultaneous
// connections to one server would race for the same port and lose packets.
func Masquerade() []Expr {
	return []Expr{{"masq", nl.Attrs{}.Uint32BE(unix.NFTA_MASQ_FLAGS, unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY)}}
}

// Counter counts packets and bytes.
func Counter() []Expr {
	return []Expr{{"counter", nl.Attrs{}.Uint64BE(unix.NFTA_COUNTER_BYTES, 0).Uint64BE(unix.NFTA_COUNTER_PACKETS, 0)}}
}

// Verdict decides about a packet, or sends it on to a chain.
type Verdict struct {
	Code  int32  // NF_* or NFT_*
	Chain string // of NFT_JUMP and NFT_GOTO
}

// Accept ends a packet's way through the base chain; base chains with a later
// priority still see the packet. Drop ends its way for good.
var (
	Accept = Verdict{Code: 1} // NF_ACCEPT
	Drop   = Verdict{Code: 0} // NF_DROP
)

// Jump sends packets through a chain.
func Jump(chain string) Verdict { return Verdict{unix.NFT_JUMP, chain} }

// Goto sends packets to a chain for good: at its end the base chain's policy
// decides.
func Goto(chain string) Verdict { return Verdict{unix.NFT_GOTO, chain} }

// Exprs is the instruction that gives the verdict.
func (v Verdict) Exprs() []Expr {
	a := nl.Attrs{}.Uint32BE(unix.NFTA_VERDICT_CODE, uint32(v.Code))
	if v.Chain != "" {
		a = a.Text(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	return []Expr{{"immediate", nl.Attrs{}.Uint32BE(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT).
		Nest(unix.NFTA_IMMEDIATE_DATA, nl.Attrs{}.Nest(unix.NFTA_DATA_VERDICT, a))}}
}

// Verdict returns the verdict that the instruction gives, false if it gives
// none.
func (e Expr) Verdict() (Verdict, bool) {
	a := e.Data.Get(unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT).Attrs()
	if e.Name != "immediate" || a == nil {
		return Verdict{}, false
	}
	return Verdict{int32(a.Get(unix.NFTA_VERDICT_CODE).Uint32BE()), a.Get(unix.NFTA_VERDICT_CHAIN).Text()}, true
}
