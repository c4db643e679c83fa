package nft

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Family is the family of a table: the packets that its chains see. The families
// "ip" and "ip6" are converted values of family.Family.
type Family uint8

const (
	// Inet is the family of tables for IPv4 and IPv6.
	Inet Family = unix.NFPROTO_INET
	// Bridge is the family of tables for the frames that bridges forward.
	Bridge Family = unix.NFPROTO_BRIDGE
)

// String returns the family's name in nft.
func (f Family) String() string {
	switch f {
	case Inet:
		return "inet"
	case Bridge:
		return "bridge"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	}
	return fmt.Sprintf("family %d", uint8(f))
}

// ID names a table of a network namespace.
type ID struct {
	Family Family
	Name   string
}

// String returns the name as nft has it, with the word table: "table inet
// overlay-cni".
func (id ID) String() string { return fmt.Sprintf("table %s %s", id.Family, id.Name) }

// Table is the content of a table. A nil *Table stands for one that is absent.
type Table struct {
	Flags    uint32 // NFT_TABLE_F_*
	Chains   []Chain
	Sets     []Set
	Elements []Element
}

// Chain is a list of rules.
type Chain struct {
	Name  string
	Hook  Hook // the zero value for a chain that only rules jump to
	Rules []Rule
}

// Hook is the place in the kernel that calls a base chain.
type Hook struct {
	Type     string // "filter", "nat" or "route"
	Number   uint32 // NF_INET_*
	Priority int32
	Policy   Verdict // Accept or Drop
}

// Priorities of base chains, as nft names them.
const (
	PriorityRaw    = -300
	PriorityDstNAT = -100
	PriorityFilter = 0
	PrioritySrcNAT = 100
)

// Rule is a list of instructions. A packet leaves the rule at the first
// comparison that fails.
type Rule struct {
	Comment string
	Exprs   []Expr
	// Handle is the number that the kernel gave the rule, 0 in wanted rules.
	Handle uint64
}

// NewRule joins the parts of a rule.
func NewRule(comment string, parts ...[]Expr) Rule {
	r := Rule{Comment: comment}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	return r
}

// Set is the definition of a set, or of a map if it has Data.
type Set struct {
	Name      string
	Flags     uint32 // NFT_SET_*
	Key, Data Type
	// extra are attributes that no wanted set has, such as a timeout.
	extra string
}

// NewSet returns a set of single keys.
func NewSet(name string, key Type) Set { return Set{Name: name, Key: key} }

// NewIntervals returns a set of ranges of keys.
func NewIntervals(name string, key Type) Set {
	return Set{Name: name, Key: key, Flags: unix.NFT_SET_INTERVAL}
}

// NewMap returns a map.
func NewMap(name string, key, data Type) Set {
	return Set{Name: name, Key: key, Data: data, Flags: unix.NFT_SET_MAP}
}

// kind is the set's kind in nft.
func (s Set) kind() string {
	if s.Flags&unix.NFT_SET_MAP != 0 {
		return "map"
	}
	return "set"
}

func (s Set) intervals() bool { return s.Flags&unix.NFT_SET_INTERVAL != 0 }

// Type is the type of a key or of a map's data.
type Type struct {
	Number uint32 // nft's number
	Size   uint32 // bytes
}

// The types. nft calls all of them big-endian, except IfName.
var (
	EtherAddr = Type{9, 6}
	Protocol  = Type{12, 1} // inet_proto
	Port      = Type{13, 2} // inet_service
	IfName    = Type{41, unix.IFNAMSIZ}
)

// Addr is the type of an address.
func Addr(f family.Family) Type {
	if f == family.IPv4 {
		return Type{7, 4}
	}
	return Type{8, 16}
}

// typeBits is the width of each type in the number of a concatenation, whose
// first type has the highest bits.
const typeBits = 6

// Concat is the type of several fields in a row. Each takes whole registers.
func Concat(types ...Type) Type {
	var all Type
	for _, t := range types {
		all.Number = all.Number<<typeBits | t.Number
		all.Size += uint32(nl.Align(int(t.Size)))
	}
	return all
}

// Element is an element of a set or a map.
type Element struct {
	Set string
	// Key is the key as the kernel has it. It is empty for the catch-all element,
	// which stands for all other keys; no wanted set has one.
	Key string
	// Last is the last key of a range, of which Key is the first. Only sets of
	// ranges have it. Read gives an element without it for a boundary that has
	// no counterpart.
	Last string
	// Data is what a map has for the key.
	Data string
}

// Fields is a key or data of several fields: each begins at a multiple of 4.
func Fields(fields ...[]byte) string {
	var b []byte
	for _, f := range fields {
		b = append(b, f...)
		b = append(b, make([]byte, nl.Align(len(b))-len(b))...)
	}
	return string(b)
}

// Split is the inverse of Fields, for fields of these sizes. It returns nil if
// the length doesn't match.
func Split(s string, sizes ...int) [][]byte {
	var fields [][]byte
	for _, n := range sizes {
		if len(s) < nl.Align(n) {
			return nil
		}
		fields = append(fields, []byte(s[:n]))
		s = s[nl.Align(n):]
	}
	if s != "" {
		return nil
	}
	return fields
}

// PadName is the name of an interface as the kernel compares it.
func PadName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
