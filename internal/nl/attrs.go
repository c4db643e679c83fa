package nl

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

var native = binary.NativeEndian

// Attrs is a list of attributes (struct nlattr), each padded to 4 bytes. The
// methods that add an attribute return the longer list, as append does. A list
// may begin with the fixed header of its message, whose length must be a
// multiple of 4. An attribute holds at most 65,531 bytes; nothing checks that.
type Attrs []byte

// Bytes adds an attribute.
func (a Attrs) Bytes(typ uint16, value []byte) Attrs {
	return append(a.head(typ, len(value)), value...).pad()
}

// Nest adds an attribute that holds a list.
func (a Attrs) Nest(typ uint16, inner Attrs) Attrs { return a.Bytes(typ, inner) }

// Flag adds an attribute without a value.
func (a Attrs) Flag(typ uint16) Attrs { return a.head(typ, 0) }

// Text adds a string with the terminating zero that NLA_NUL_STRING policies
// ask for.
func (a Attrs) Text(typ uint16, s string) Attrs {
	return append(append(a.head(typ, len(s)+1), s...), 0).pad()
}

// Addr adds an IP address: 4 or 16 bytes.
func (a Attrs) Addr(typ uint16, ip netip.Addr) Attrs {
	if ip.Is4() {
		v := ip.As4()
		return a.Bytes(typ, v[:])
	}
	v := ip.As16()
	return a.Bytes(typ, v[:])
}

// Uint8 adds a byte.
func (a Attrs) Uint8(typ uint16, v uint8) Attrs { return append(a.head(typ, 1), v).pad() }

// Uint16 adds a number in the host's byte order.
func (a Attrs) Uint16(typ, v uint16) Attrs {
	return Attrs(native.AppendUint16(a.head(typ, 2), v)).pad()
}

// Uint32 adds a number in the host's byte order.
func (a Attrs) Uint32(typ uint16, v uint32) Attrs { return native.AppendUint32(a.head(typ, 4), v) }

// Uint16BE adds a number in network byte order.
func (a Attrs) Uint16BE(typ, v uint16) Attrs {
	return Attrs(binary.BigEndian.AppendUint16(a.head(typ, 2), v)).pad()
}

// Uint32BE adds a number in network byte order.
func (a Attrs) Uint32BE(typ uint16, v uint32) Attrs {
	return binary.BigEndian.AppendUint32(a.head(typ, 4), v)
}

// Uint64BE adds a number in network byte order.
func (a Attrs) Uint64BE(typ uint16, v uint64) Attrs {
	return binary.BigEndian.AppendUint64(a.head(typ, 8), v)
}

func (a Attrs) head(typ uint16, size int) Attrs {
	return native.AppendUint16(native.AppendUint16(a, uint16(unix.SizeofNlAttr+size)), typ)
}

func (a Attrs) pad() Attrs {
	for len(a) != Align(len(a)) {
		a = append(a, 0)
	}
	return a
}

// Align rounds a length in bytes up to NLMSG_ALIGNTO, which is NLA_ALIGNTO, too.
func Align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

// All yields each attribute's type, without flag bits, and value. A malformed
// attribute ends the list.
func (a Attrs) All() iter.Seq2[uint16, Value] {
	return func(yield func(uint16, Value) bool) {
		for rest := a; len(rest) >= unix.SizeofNlAttr; {
			size := int(native.Uint16(rest))
			if size < unix.SizeofNlAttr || size > len(rest) {
				return
			}
			typ := native.Uint16(rest[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(typ, Value(rest[unix.SizeofNlAttr:size:size])) {
				return
			}
			rest = rest[min(Align(size), len(rest)):]
		}
	}
}

// Get returns the value of the first attribute of a type. A longer path of
// types leads into nested lists. The value is nil if there is no such
// attribute; an empty attribute is not nil.
func (a Attrs) Get(path ...uint16) Value {
	v := Value(a)
	for _, typ := range path {
		v = v.Attrs().first(typ)
	}
	return v
}

func (a Attrs) first(typ uint16) Value {
	for t, v := range a.All() {
		if t == typ {
			return v
		}
	}
	return nil
}

// Value is what an attribute holds. Numbers that are too short read as 0.
type Value []byte

// Attrs returns the nested list.
func (v Value) Attrs() Attrs { return Attrs(v) }

// Text returns a string without the zero that may end it.
func (v Value) Text() string { return unix.ByteSliceToString(v) }

// Addr returns an IP address, the zero value if there is none.
func (v Value) Addr() netip.Addr {
	ip, _ := netip.AddrFromSlice(v)
	return ip
}

// Uint8 returns a byte.
func (v Value) Uint8() uint8 {
	if len(v) < 1 {
		return 0
	}
	return v[0]
}

// Uint16 returns a number in the host's byte order.
func (v Value) Uint16() uint16 {
	if len(v) < 2 {
		return 0
	}
	return native.Uint16(v)
}

// Uint32 returns a number in the host's byte order.
func (v Value) Uint32() uint32 {
	if len(v) < 4 {
		return 0
	}
	return native.Uint32(v)
}

// Uint16BE returns a number in network byte order.
func (v Value) Uint16BE() uint16 {
	if len(v) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}

// Uint32BE returns a number in network byte order.
func (v Value) Uint32BE() uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}

// Uint64BE returns a number in network byte order.
func (v Value) Uint64BE() uint64 {
	if len(v) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}
