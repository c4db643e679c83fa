package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// nftTables is iptables-nft's tables. They are ordinary tables of nf_tables, so
// no program is needed: we send what iptables would send.
type nftTables struct{ conn *nft.Conn }

func (nftTables) name() string { return "iptables-nft" }

func filterID(f family.Family) nft.ID { return nft.ID{Family: nft.Family(f), Name: filterTable} }

// stamp changes with every table of the namespace.
func (t nftTables) stamp(family.Family) (any, error) {
	generation, err := t.conn.Generation()
	if errors.Is(err, nft.ErrUnsupported) {
		return nil, nil
	}
	return generation, err
}

// read reads our two chains one after the other, because listing the table takes long
// if kube-proxy has chains for thousands of Services. A change between the two reads
// changes the stamp, so the next Sync reads again. A plan from two different states
// does no harm meanwhile, because the kernel never reuses a rule's handle.
func (t nftTables) read(f family.Family, want []Rule) (Table, error) {
	forward, err := t.conn.ReadChain(filterID(f), forwardChain)
	if err != nil || forward == nil || forward.Hook == (nft.Hook{}) {
		return Table{}, err
	}
	ours, err := t.conn.ReadChain(filterID(f), ourChain)
	if err != nil {
		return Table{}, err
	}
	have := Table{Present: true, Chain: ours != nil}
	for _, r := range forward.Rules {
		have.Forward = append(have.Forward, BaseRule{Kind: kindOf(r), Handle: r.Handle})
	}
	if ours != nil {
		for _, r := range ours.Rules {
			have.Rules = append(have.Rules, textOf(r, want))
		}
	}
	return have, nil
}

func (t nftTables) apply(f family.Family, ops []Op) error {
	var all []nft.Op
	for _, op := range ops {
		all = append(all, nftOps(filterID(f), op)...)
	}
	return t.conn.Commit(nft.AnyGeneration, all...)
}

func nftOps(id nft.ID, op Op) []nft.Op {
	switch op := op.(type) {
	case Fill:
		ops := []nft.Op{id.MakeChain(nft.Chain{Name: ourChain}), id.FlushChain(ourChain)}
		for _, r := range op.Rules {
			ops = append(ops, id.AddRule(ourChain, encode(r)))
		}
		return ops
	case PutJump:
		jump := nft.NewRule("", nft.Counter(), nft.Jump(ourChain).Exprs())
		put := id.AddRule(forwardChain, jump)
		if op.Number > 0 {
			put = id.InsertRule(forwardChain, op.Before.Handle, jump)
		}
		return append([]nft.Op{put}, nftDeletions(id, op.Remove)...)
	case Remove:
		ops := nftDeletions(id, op.Jumps)
		if op.Chain {
			ops = append(ops, id.FlushChain(ourChain), id.DeleteChain(ourChain))
		}
		return ops
	}
	return nil
}

func nftDeletions(id nft.ID, rules []BaseRule) []nft.Op {
	var ops []nft.Op
	for _, r := range rules {
		ops = append(ops, id.DeleteRule(forwardChain, r.Handle))
	}
	return ops
}

// encode returns the instructions into which iptables-nft 1.8 translates a rule. If the
// table had other instructions, even equivalent ones, iptables would report the whole
// table as incompatible.
func encode(r Rule) nft.Rule {
	var parts [][]nft.Expr
	if r.In != "" {
		parts = append(parts, nft.InName().Is(terminated(r.In)...))
	}
	if r.Out != "" {
		parts = append(parts, nft.OutName().Is(terminated(r.Out)...))
	}
	if r.Replies {
		parts = append(parts, matchReplies())
	}
	return nft.NewRule("", append(parts, nft.Counter(), nft.Accept.Exprs())...)
}

// terminated returns a name with a zero at its end. Without the zero, the rule would
// match all names with this prefix.
func terminated(name string) []byte { return append([]byte(name), 0) }

// matchReplies is ip_tables' match "conntrack", which nf_tables has for iptables'
// sake: iptables-nft does not know nf_tables' own "ct state". The match's data are
// struct xt_conntrack_mtinfo3 of linux/netfilter/xt_conntrack.h, padded to 8 bytes.
func matchReplies() []nft.Expr {
	const (
		revision             = 3
		size                 = 168
		matchFlags, stateSet = 146, 150       // offsets
		matchState           = 1 << 0         // XT_CONNTRACK_STATE
		established, related = 1 << 1, 1 << 2 // XT_CONNTRACK_STATE_BIT
		name, rev, info      = 1, 2, 3        // NFTA_MATCH_*
	)
	data := make([]byte, size)
	binary.NativeEndian.PutUint16(data[matchFlags:], matchState)
	binary.NativeEndian.PutUint16(data[stateSet:], established|related)
	return []nft.Expr{{Name: "match", Data: nl.Attrs{}.Text(name, "conntrack").Uint32BE(rev, revision).Bytes(info, data)}}
}

// textOf returns the text of a known rule. For other rules it returns any other text,
// because Plan only has to see a difference.
func textOf(r nft.Rule, known []Rule) string {
	r.Comment = ""
	for _, k := range known {
		if r.Equal(encode(k)) {
			return k.String()
		}
	}
	return fmt.Sprintf("handle %d", r.Handle)
}

// kindOf returns what a rule of FORWARD means to us.
func kindOf(r nft.Rule) Kind {
	exprs := slices.DeleteFunc(slices.Clone(r.Exprs), effectless)
	if len(exprs) == 0 {
		return Unmanaged
	}
	last, alone := exprs[len(exprs)-1], len(exprs) == 1
	v, _ := last.Verdict()
	switch {
	case v == nft.Jump(ourChain) && alone:
		return Jump
	case v.Chain == ourChain:
		return WrongJump
	case alone && final(last):
		return Final
	}
	return Unmanaged
}

// effectless reports whether an instruction lets every packet through.
func effectless(e nft.Expr) bool {
	return e.Name == "counter" || e.Name == "match" && extension(e) == "comment"
}

// extension is the name of a match or a target of ip_tables (NFTA_MATCH_NAME,
// NFTA_TARGET_NAME).
func extension(e nft.Expr) string { return e.Data.Get(1).Text() }

// final reports whether no packet gets past the instruction. In a built-in chain,
// RETURN applies the chain's policy.
func final(e nft.Expr) bool {
	v, is := e.Verdict()
	return is && (v == nft.Drop || v == nft.Accept || v.Code == unix.NFT_RETURN) ||
		e.Name == "reject" || e.Name == "target" && extension(e) == "REJECT"
}
