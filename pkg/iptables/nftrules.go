package iptables

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// This file translates between rules and the instructions that iptables-nft
// 1.8 makes of them. Any other, though they did the same, would make it say
// that it does not know the table. It touches no kernel.

// register is the one that all instructions use: the first of the old numbering.
const register = unix.NFT_REG_1

func encode(r Rule) []expr.Any {
	var exprs []expr.Any
	if r.In != "" {
		exprs = append(exprs, sameName(expr.MetaKeyIIFNAME, r.In)...)
	}
	if r.Out != "" {
		exprs = append(exprs, sameName(expr.MetaKeyOIFNAME, r.Out)...)
	}
	if r.Replies {
		exprs = append(exprs, encodeReplies())
	}
	return append(exprs, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept})
}

func encodeJump(chain string) []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// sameName compares the name of an interface, with the zero at its end; without
// it, all names that begin so would match.
func sameName(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: append([]byte(name), 0)},
	}
}

// encodeReplies is ip_tables' match "conntrack", which nf_tables has for
// iptables' sake. iptables-nft would not know nf_tables' own "ct state".
func encodeReplies() expr.Any {
	const stateEstablished, stateRelated = 1 << 1, 1 << 2 // XT_CONNTRACK_STATE_BIT
	info := &xt.ConntrackMtinfo3{}
	info.MatchFlags = uint16(xt.ConntrackState)
	info.StateMask = stateEstablished | stateRelated
	return &expr.Match{Name: "conntrack", Rev: 3, Info: info}
}

// textOf finds the rule among the known ones. Others need no text that
// iptables would print: it is enough that they differ.
func textOf(r *nftables.Rule, family byte, known []Rule) string {
	for _, k := range known {
		if equal(encode(k), r.Exprs, family) {
			return k.String()
		}
	}
	return fmt.Sprintf("handle %d", r.Handle)
}

// equal compares instructions as they are sent, counters' values excluded.
func equal(a, b []expr.Any, family byte) bool {
	return slices.EqualFunc(a, b, func(a, b expr.Any) bool {
		if isCounter(a) && isCounter(b) {
			return true
		}
		left, errLeft := expr.Marshal(family, a)
		right, errRight := expr.Marshal(family, b)
		return errLeft == nil && errRight == nil && bytes.Equal(left, right)
	})
}

func isCounter(e expr.Any) bool {
	_, is := e.(*expr.Counter)
	return is
}

// kindOf tells what a rule of FORWARD means to us.
func kindOf(r *nftables.Rule) Kind {
	exprs := slices.DeleteFunc(slices.Clone(r.Exprs), effectless)
	if len(exprs) == 0 {
		return Unmanaged
	}
	last, alone := exprs[len(exprs)-1], len(exprs) == 1
	if v, is := last.(*expr.Verdict); is && v.Chain == ourChain {
		if alone && v.Kind == expr.VerdictJump {
			return Jump
		}
		return WrongJump
	}
	if alone && final(last) {
		return Final
	}
	return Unmanaged
}

// effectless instructions let every packet through.
func effectless(e expr.Any) bool {
	m, is := e.(*expr.Match)
	return is && m.Name == "comment" || isCounter(e)
}

// final tells whether no packet gets past the instruction. From a built-in
// chain RETURN leads to its policy.
func final(e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Verdict:
		return e.Kind == expr.VerdictDrop || e.Kind == expr.VerdictAccept || e.Kind == expr.VerdictReturn
	case *expr.Reject:
		return true
	case *expr.Target:
		return e.Name == "REJECT"
	}
	return false
}
