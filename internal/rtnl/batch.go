package rtnl

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Batch is a list of operations that go to the kernel together. The zero value
// is empty and ready.
type Batch struct {
	buf  []byte
	msgs []msg
}

type msg struct {
	start int
	// op says what the message does, for errors. Where messages come by the
	// thousand it is left to describe, which reads it from the message.
	op       string
	describe func(typ uint16, payload []byte) string
}

// Len is the number of operations.
func (b *Batch) Len() int { return len(b.msgs) }

// Grow makes room for n more operations on addresses, routes or neighbours.
func (b *Batch) Grow(n int) {
	const typical = 64 // bytes; a batch that is larger just grows further
	b.msgs = slices.Grow(b.msgs, n)
	b.buf = slices.Grow(b.buf, n*typical)
}

// begin starts a message. The ones before it are complete from now on.
func (b *Batch) begin(op string, typ, flags uint16, header []byte) {
	b.add(msg{op: op}, typ, flags)
	b.buf = append(b.buf, header...)
}

// add starts a message without what follows the netlink header.
func (b *Batch) add(m msg, typ, flags uint16) {
	m.start = len(b.buf)
	b.msgs = append(b.msgs, m)
	b.buf = native.AppendUint32(b.buf, 0) // the length, see bytes
	b.buf = native.AppendUint16(b.buf, typ)
	b.buf = native.AppendUint16(b.buf, unix.NLM_F_REQUEST|flags)
	b.buf = native.AppendUint64(b.buf, 0) // sequence number and port
}

// op names operation i for an error.
func (b *Batch) op(i int) string {
	m := b.msgs[i]
	if m.describe == nil {
		return m.op
	}
	raw := b.bytes(i, i+1)
	return m.describe(native.Uint16(raw[4:]), raw[unix.NLMSG_HDRLEN:])
}

func (b *Batch) end(i int) int {
	if i+1 < len(b.msgs) {
		return b.msgs[i+1].start
	}
	return len(b.buf)
}

func (b *Batch) number(i int, seq uint32, ack bool) {
	m := b.buf[b.msgs[i].start:]
	native.PutUint32(m, uint32(b.end(i)-b.msgs[i].start))
	native.PutUint32(m[8:], seq)
	if ack {
		native.PutUint16(m[6:], native.Uint16(m[6:])|unix.NLM_F_ACK)
	}
}

func (b *Batch) bytes(start, end int) []byte { return b.buf[b.msgs[start].start:b.end(end-1)] }

// attr appends an attribute (struct rtattr, padded to 4 bytes).
func (b *Batch) attr(typ uint16, value []byte) {
	b.buf = native.AppendUint16(b.buf, uint16(unix.SizeofRtAttr+len(value)))
	b.buf = native.AppendUint16(b.buf, typ)
	b.buf = append(b.buf, value...)
	for len(b.buf)%unix.NLMSG_ALIGNTO != 0 {
		b.buf = append(b.buf, 0)
	}
}

func (b *Batch) attr8(typ uint16, v uint8) { b.attr(typ, []byte{v}) }

func (b *Batch) attr32(typ uint16, v uint32) {
	var value [4]byte
	native.PutUint32(value[:], v)
	b.attr(typ, value[:])
}

// attrNet16 is for ports and the like, which are in network byte order.
func (b *Batch) attrNet16(typ uint16, v uint16) {
	b.attr(typ, binary.BigEndian.AppendUint16(nil, v))
}

// attrString appends a string with the terminating zero that the kernel's
// NLA_NUL_STRING policies ask for.
func (b *Batch) attrString(typ uint16, s string) { b.attr(typ, append([]byte(s), 0)) }

func (b *Batch) attrAddr(typ uint16, a netip.Addr) {
	if a.Is4() {
		value := a.As4()
		b.attr(typ, value[:])
		return
	}
	value := a.As16()
	b.attr(typ, value[:])
}

// nest appends an attribute that holds what body appends.
func (b *Batch) nest(typ uint16, body func()) {
	start := len(b.buf)
	b.attr(typ, nil)
	body()
	native.PutUint16(b.buf[start:], uint16(len(b.buf)-start))
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
