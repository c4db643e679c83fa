package nft

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Title is the set's name with its kind: "map ports4".
func (s Set) Title() string { return s.kind() + " " + s.Name }

// maxListed is how many elements a log line names. A node that joins has a subnet
// or two; the first start has thousands.
const maxListed = 4

func (s Set) listed(elements []Element) string {
	if len(elements) > maxListed {
		return count(len(elements), "element")
	}
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i] = s.Text(e)
	}
	return strings.Join(texts, ", ")
}

// Text is an element of the set as nft lists it: "tcp . 8080 : 10.244.1.2 . 80" or
// "10.244.0.0-10.244.0.255".
func (s Set) Text(e Element) string {
	text := s.Key.text(e.Key)
	if e.Key == "" {
		text = "*"
	}
	if e.Last != "" && e.Last != e.Key {
		text += "-" + s.Key.text(e.Last)
	}
	if e.Data != "" {
		text += " : " + s.Data.text(e.Data)
	}
	return text
}

// text writes a value of the type, in hexadecimal if its type is unknown.
func (t Type) text(value string) string {
	var texts []string
	rest := value
	for _, number := range t.fields() {
		f, known := fieldOf(number)
		if !known || len(rest) < f.size {
			return fmt.Sprintf("0x%x", value)
		}
		texts = append(texts, f.text([]byte(rest[:f.size])))
		rest = rest[min(nl.Align(f.size), len(rest)):]
	}
	return strings.Join(texts, " . ")
}

// fields are the numbers of the types in a concatenation.
func (t Type) fields() []uint32 {
	var numbers []uint32
	for n := t.Number; n > 0; n >>= typeBits {
		numbers = append([]uint32{n & (1<<typeBits - 1)}, numbers...)
	}
	return numbers
}

type textField struct {
	size int
	text func([]byte) string
}

func fieldOf(number uint32) (textField, bool) {
	f, known := map[uint32]textField{
		7: {4, addrText}, 8: {16, addrText},
		EtherAddr.Number: {6, func(b []byte) string { return net.HardwareAddr(b).String() }},
		Protocol.Number:  {1, protocolText},
		Port.Number:      {2, func(b []byte) string { return fmt.Sprint(binary.BigEndian.Uint16(b)) }},
		IfName.Number:    {unix.IFNAMSIZ, func(b []byte) string { return unix.ByteSliceToString(b) }},
	}[number]
	return f, known
}

func addrText(b []byte) string {
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

func protocolText(b []byte) string {
	switch b[0] {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprint(b[0])
}
