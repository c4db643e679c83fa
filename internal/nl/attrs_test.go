package nl

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAttrs(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd01::1")
	header := []byte{1, 2, 3, 4}
	a := Attrs(header).
		Text(1, "eth0").
		Uint8(2, 200).
		Uint16BE(3, 0x0102).
		Uint32(4, 0x01020304).
		Uint32BE(5, 0x01020304).
		Uint64BE(6, 0x0102030405060708).
		Addr(7, v4).Addr(8, v6).
		Flag(9).
		Nest(10|unix.NLA_F_NESTED, Attrs(nil).Bytes(1, []byte{1, 2, 3}).Nest(2, Attrs(nil).Uint8(3, 4)))
	if len(a)%4 != 0 || !bytes.HasPrefix(a, header) {
		t.Fatalf("the list % x has no padding or header", a)
	}
	a = a[len(header):]
	for name, ok := range map[string]bool{
		"text":      a.Get(1).Text() == "eth0" && len(a.Get(1)) == 5,
		"byte":      a.Get(2).Uint8() == 200,
		"16 bit BE": a.Get(3).Uint16BE() == 0x0102 && a.Get(3)[0] == 1,
		"32 bit":    a.Get(4).Uint32() == 0x01020304,
		"32 bit BE": a.Get(5).Uint32BE() == 0x01020304 && a.Get(5)[0] == 1,
		"64 bit BE": a.Get(6).Uint64BE() == 0x0102030405060708 && a.Get(6)[0] == 1,
		"IPv4":      a.Get(7).Addr() == v4,
		"IPv6":      a.Get(8).Addr() == v6,
		"flag":      a.Get(9) != nil && len(a.Get(9)) == 0,
		"nested":    bytes.Equal(a.Get(10, 1), []byte{1, 2, 3}),
		"deep":      a.Get(10, 2, 3).Uint8() == 4,
		"absent":    a.Get(11) == nil && a.Get(10, 3) == nil && a.Get(11, 1) == nil,
	} {
		if !ok {
			t.Errorf("%s is not read back from % x", name, a)
		}
	}
	next := uint16(1)
	for typ := range a.All() {
		if typ != next {
			t.Errorf("attribute %d comes in the place of %d", typ, next)
		}
		next++
	}
}

// Encoding does not allocate where the caller brings the memory: ADD and
// thousands of peers depend on it.
func TestEncodingDoesNotAllocate(t *testing.T) {
	ip := netip.MustParseAddr("fd01::1")
	var room [256]byte
	if n := testing.AllocsPerRun(100, func() {
		a := Attrs(room[:0]).Addr(1, ip).Uint32(2, 3).Uint8(4, 5).Text(6, "eth0").Uint16BE(7, 8)
		if a.Get(2).Uint32() != 3 {
			t.Error("the number is not there")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzAttrs(f *testing.F) {
	f.Add([]byte(Attrs(nil).Text(1, "eth0").Nest(2, Attrs(nil).Uint32(3, 4))))
	f.Add([]byte{3, 0, 1, 0})
	f.Add([]byte{255, 255, 1, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		total := 0
		for _, v := range Attrs(in).All() {
			total += unix.SizeofNlAttr + len(v)
			_, _, _, _ = v.Text(), v.Addr(), v.Uint8(), v.Uint32()
			_, _, _ = v.Uint16BE(), v.Uint32BE(), v.Uint64BE()
			_ = v.Attrs().Get(1, 2)
		}
		if total > len(in) {
			t.Errorf("%d bytes of attributes in %d", total, len(in))
		}
	})
}
