package rtnl

import (
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Rule is a rule of policy routing, as ip-rule(8) shows it.
type Rule struct {
	Family   family.Family
	Priority uint32
	// To and From are the destinations and sources that the rule is for. The zero
	// value stands for all.
	To, From netip.Prefix
	Action   uint8 // FR_ACT_*
	Table    uint32
	// MinBits makes the rule ignore routes with shorter prefixes; 0: the rule takes all.
	MinBits int
	// Protocol (RTPROT_*) says who made the rule.
	Protocol uint8
}

// RuleEntry is a rule in a list of the kernel.
type RuleEntry struct {
	Rule
	// Marked says that the rule is for packets with a mark, and Bound that it is for
	// sockets that are bound to an interface.
	Marked, Bound bool
	// VRF says that the rule is for VRFs, which bring their own tables.
	VRF bool
	// Inverted says that the rule is for the packets that it doesn't describe.
	Inverted bool
	// More says that the rule has further conditions.
	More bool
	Raw  []byte // the message's body, for DelDumped
}

const ruleInvert = 2 // FIB_RULE_INVERT, linux/fib_rules.h

// Actions of rules (linux/fib_rules.h).
const (
	RuleLookup = 1 // FR_ACT_TO_TBL
	RuleGoto   = 2 // FR_ACT_GOTO
)

// Attributes of a rule, linux/fib_rules.h.
const (
	ruleTo             = 1  // FRA_DST
	ruleFrom           = 2  // FRA_SRC
	rulePriority       = 6  // FRA_PRIORITY
	ruleMark           = 10 // FRA_FWMARK
	ruleSuppressGroup  = 13 // FRA_SUPPRESS_IFGROUP
	ruleSuppressLength = 14 // FRA_SUPPRESS_PREFIXLEN
	ruleTable          = 15 // FRA_TABLE
	ruleMask           = 16 // FRA_FWMASK
	ruleOutInterface   = 17 // FRA_OIFNAME
	rulePad            = 18 // FRA_PAD
	ruleVRF            = 19 // FRA_L3MDEV
	ruleProtocol       = 21 // FRA_PROTOCOL

	sizeofRule = 12 // struct fib_rule_hdr
)

// EachRule lists the rules of a family, in the order in which the kernel asks them.
func (c *Conn) EachRule(f family.Family, each func(RuleEntry)) error {
	body := append(nl.Attrs{byte(f)}, make([]byte, sizeofRule-1)...)
	return c.list("list the rules of policy routing", unix.RTM_GETRULE, body, func(body []byte) {
		if body[0] == byte(f) {
			each(parseRule(body))
		}
	})
}

func parseRule(body []byte) RuleEntry {
	r := RuleEntry{Raw: append([]byte(nil), body...)}
	r.Family, r.Table, r.Action = family.Family(body[0]), uint32(body[4]), body[7]
	r.Inverted = native.Uint32(body[8:])&ruleInvert != 0
	r.More = body[3] != 0 // TOS
	for typ, value := range nl.Attrs(body[sizeofRule:]).All() {
		switch typ {
		case ruleTo:
			r.To = netip.PrefixFrom(value.Addr(), int(body[1]))
		case ruleFrom:
			r.From = netip.PrefixFrom(value.Addr(), int(body[2]))
		case rulePriority:
			r.Priority = value.Uint32()
		case ruleTable:
			r.Table = value.Uint32()
		case ruleProtocol:
			r.Protocol = value.Uint8()
		case ruleSuppressLength:
			r.MinBits = int(int32(value.Uint32())) + 1 // -1: none
		case ruleSuppressGroup:
			r.More = r.More || value.Uint32() != ^uint32(0)
		case ruleMark:
			r.Marked = r.Marked || value.Uint32() != 0
		case ruleMask:
			r.Marked = r.Marked || value.Uint32() != 0
		case ruleOutInterface:
			r.Bound = true
		case ruleVRF:
			r.VRF = value.Uint8() != 0
		case rulePad:
		default:
			r.More = true
		}
	}
	return r
}

// AddRule adds a rule that looks routes up in a table.
func (b *Batch) AddRule(r Rule) *nl.Request {
	header := make(nl.Attrs, sizeofRule, 128)
	header[0], header[1], header[2], header[7] = byte(r.Family), prefixBits(r.To), prefixBits(r.From), RuleLookup
	body := header.Uint32(rulePriority, r.Priority).Uint32(ruleTable, r.Table).Uint8(ruleProtocol, r.Protocol)
	if r.To.Bits() > 0 {
		body = body.Addr(ruleTo, r.To.Addr())
	}
	if r.From.Bits() > 0 {
		body = body.Addr(ruleFrom, r.From.Addr())
	}
	if r.MinBits > 0 {
		body = body.Uint32(ruleSuppressLength, uint32(r.MinBits-1))
	}
	return b.add("add rule "+r.String(), unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
}

// String is the rule as ip-rule(8) takes it.
func (r Rule) String() string {
	text := fmt.Sprintf("pref %d", r.Priority)
	if r.From.IsValid() {
		text += " from " + r.From.String()
	}
	if r.To.IsValid() {
		text += " to " + r.To.String()
	}
	if r.Action != RuleLookup {
		return text
	}
	text += " lookup " + tableName(r.Table)
	if r.MinBits > 0 {
		text += fmt.Sprintf(" suppress_prefixlength %d", r.MinBits-1)
	}
	return text
}

func tableName(table uint32) string {
	switch table {
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_LOCAL:
		return "local"
	}
	return strconv.Itoa(int(table))
}

func prefixBits(p netip.Prefix) byte { return byte(max(p.Bits(), 0)) }

// RouteFrom is RouteTo for packets of this host that have a source address. The zero
// value stands for any source.
func (c *Conn) RouteFrom(src, dst netip.Addr) (RouteEntry, error) {
	body := routeHeader(family.Of(dst), dst.BitLen()).Addr(unix.RTA_DST, dst)
	if src.IsValid() {
		body[2] = byte(src.BitLen())
		body = body.Addr(unix.RTA_SRC, src)
	}
	return c.lookUp(dst, body)
}
