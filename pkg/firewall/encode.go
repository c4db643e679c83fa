package firewall

import (
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// This file translates between the values of this package and the library's,
// both ways. It touches no kernel.

// register is the one that all steps use: the first of the old numbering, 16
// bytes wide.
const register = unix.NFT_REG_1

// field is something that a rule can load from a packet.
type field struct {
	name string
	load expr.Any
}

// fields are what the rules load, by the names that nft has for them. Offsets
// are those of RFC 791 and RFC 8200; ICMP has its type at the same place in
// both families.
func fields() []field {
	return []field{
		{"meta nfproto", meta(expr.MetaKeyNFPROTO)},
		{"meta l4proto", meta(expr.MetaKeyL4PROTO)},
		{"meta oifname", meta(expr.MetaKeyOIFNAME)},
		{"ip saddr", networkHeader(12, 4)},
		{"ip daddr", networkHeader(16, 4)},
		{"ip6 saddr", networkHeader(8, 16)},
		{"ip6 daddr", networkHeader(24, 16)},
		{"icmp type", &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Len: 1}},
	}
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: register} }

func networkHeader(offset, length uint32) expr.Any {
	return &expr.Payload{
		DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length,
	}
}

// encodeStep returns an error for what only comes from the kernel.
func encodeStep(s Step) (expr.Any, error) {
	switch s.Verb {
	case Load:
		for _, f := range fields() {
			if f.name == s.Arg {
				return f.load, nil
			}
		}
	case Equal:
		return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte(s.Arg)}, nil
	case Differ:
		return &expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: []byte(s.Arg)}, nil
	case In, NotIn:
		return &expr.Lookup{SourceRegister: register, SetName: s.Arg, Invert: s.Verb == NotIn}, nil
	case Masquerade:
		return &expr.Masq{FullyRandom: true}, nil
	case Drop:
		return &expr.Verdict{Kind: expr.VerdictDrop}, nil
	}
	return nil, fmt.Errorf("no instruction of the kernel is known for the step %q", s)
}

// decodeStep is the inverse of encodeStep. Whatever would not encode to the
// very same instruction is Other, so nothing foreign is taken for ours.
func decodeStep(e expr.Any) Step {
	s := guessStep(e)
	if again, err := encodeStep(s); err != nil || !reflect.DeepEqual(again, e) {
		return Step{Other, fmt.Sprintf("%T%+v", e, reflect.ValueOf(e).Elem())}
	}
	return s
}

func guessStep(e expr.Any) Step {
	switch e := e.(type) {
	case *expr.Meta, *expr.Payload:
		return Step{Load, fieldName(e)}
	case *expr.Cmp:
		if e.Op == expr.CmpOpNeq {
			return Step{Differ, string(e.Data)}
		}
		return Step{Equal, string(e.Data)}
	case *expr.Lookup:
		if e.Invert {
			return Step{NotIn, e.SetName}
		}
		return Step{In, e.SetName}
	case *expr.Masq:
		return Step{Masquerade, ""}
	case *expr.Verdict:
		return Step{Drop, ""}
	}
	return Step{Verb: Other}
}

func fieldName(load expr.Any) string {
	for _, f := range fields() {
		if reflect.DeepEqual(f.load, load) {
			return f.name
		}
	}
	return ""
}

func encodeSteps(steps []Step) ([]expr.Any, error) {
	exprs := make([]expr.Any, len(steps))
	for i, s := range steps {
		e, err := encodeStep(s)
		if err != nil {
			return nil, err
		}
		exprs[i] = e
	}
	return exprs, nil
}

func decodeRule(r *nftables.Rule) Rule {
	rule := Rule{Comment: decodeComment(r.UserData)}
	for _, e := range r.Exprs {
		rule.Steps = append(rule.Steps, decodeStep(e))
	}
	return rule
}

// encodeComment writes a comment as nft does: type, length, text and a zero.
func encodeComment(comment string) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, comment)
}

// decodeComment is the inverse of encodeComment. It does not use the library's
// parser, which panics on the data of a rule that another program made.
func decodeComment(data []byte) string {
	const header = 2
	if len(data) > header {
		if text := strings.TrimSuffix(string(data[header:]), "\x00"); string(encodeComment(text)) == string(data) {
			return text
		}
	}
	return string(data)
}

// hooks are the places in the kernel that the table's chains are called from.
func hooks() map[string]*nftables.ChainHook {
	return map[string]*nftables.ChainHook{
		"prerouting":  nftables.ChainHookPrerouting,
		"input":       nftables.ChainHookInput,
		"forward":     nftables.ChainHookForward,
		"output":      nftables.ChainHookOutput,
		"postrouting": nftables.ChainHookPostrouting,
	}
}

func policies() map[string]nftables.ChainPolicy {
	return map[string]nftables.ChainPolicy{
		"accept": nftables.ChainPolicyAccept,
		"drop":   nftables.ChainPolicyDrop,
	}
}

func encodeChain(table *nftables.Table, c Chain) (*nftables.Chain, error) {
	chain := &nftables.Chain{Table: table, Name: c.Name}
	if c.Hook == (Hook{}) {
		return chain, nil
	}
	hook, known := hooks()[c.Hook.Point]
	policy, valid := policies()[c.Hook.Policy]
	if !known || !valid {
		return nil, fmt.Errorf("chain %s: the hook %v is not one of the inet family", c.Name, c.Hook)
	}
	chain.Type = nftables.ChainType(c.Hook.Type)
	chain.Hooknum = hook
	chain.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(c.Hook.Priority))
	chain.Policy = &policy
	return chain, nil
}

func decodeChain(c *nftables.Chain) Chain {
	chain := Chain{Name: c.Name}
	if c.Hooknum == nil || c.Priority == nil {
		return chain
	}
	chain.Hook = Hook{Type: string(c.Type), Priority: int32(*c.Priority), Point: strconv.Itoa(int(*c.Hooknum))}
	for name, hook := range hooks() {
		if *hook == *c.Hooknum {
			chain.Hook.Point = name
		}
	}
	for name, policy := range policies() {
		if c.Policy != nil && policy == *c.Policy {
			chain.Hook.Policy = name
		}
	}
	return chain
}

// addressTypes are the types of the sets whose elements are read and written.
func addressTypes() []nftables.SetDatatype {
	return []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr}
}

func encodeSet(table *nftables.Table, s Set) (*nftables.Set, error) {
	for _, t := range addressTypes() {
		if s.Type == t.Name && s.Flags == "interval" {
			return &nftables.Set{Table: table, Name: s.Name, KeyType: t, Interval: true}, nil
		}
	}
	return nil, fmt.Errorf("set %s: type %q and flags %q are not those of a set of address ranges", s.Name, s.Type, s.Flags)
}

func decodeSet(s *nftables.Set) Set {
	set := Set{Name: s.Name, Type: s.KeyType.Name}
	if s.IsMap {
		set.Type += " : " + s.DataType.Name
	}
	var flags []string
	for _, f := range []struct {
		name string
		on   bool
	}{
		{"constant", s.Constant}, {"dynamic", s.Dynamic}, {"interval", s.Interval},
		{"timeout", s.HasTimeout}, {"concatenation", s.Concatenation},
	} {
		if f.on {
			flags = append(flags, f.name)
		}
	}
	if s.Size > 0 {
		flags = append(flags, fmt.Sprintf("size %d", s.Size))
	}
	set.Flags = strings.Join(flags, ",")
	return set
}

func encodeRanges(ranges []Range) []nftables.SetElement {
	elements := make([]nftables.SetElement, 0, 2*len(ranges))
	for _, r := range ranges {
		for _, b := range r.boundaries() {
			elements = append(elements, nftables.SetElement{Key: b.at.AsSlice(), IntervalEnd: b.end})
		}
	}
	return elements
}

func decodeRanges(elements []nftables.SetElement) (Elements, error) {
	bs := make([]boundary, len(elements))
	for i, e := range elements {
		at, ok := netip.AddrFromSlice(e.Key)
		if !ok {
			return Elements{}, fmt.Errorf("element %x is not an address", e.Key)
		}
		bs[i] = boundary{at: at, end: e.IntervalEnd}
	}
	return elementsOf(bs), nil
}
