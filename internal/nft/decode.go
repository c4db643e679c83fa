package nft

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// decodeChain reads a chain without its rules. It is false for a chain that a
// rule contains. No wanted rule contains one, so the rule is replaced, and the
// chain goes with the rule.
func decodeChain(a nl.Attrs) (Chain, bool) {
	const (
		flags   = 10     // NFTA_CHAIN_FLAGS
		binding = 1 << 2 // NFT_CHAIN_BINDING
	)
	c := Chain{Name: a.Get(unix.NFTA_CHAIN_NAME).Text()}
	if h := a.Get(unix.NFTA_CHAIN_HOOK); h != nil {
		c.Hook = Hook{
			Type:     a.Get(unix.NFTA_CHAIN_TYPE).Text(),
			Number:   h.Attrs().Get(unix.NFTA_HOOK_HOOKNUM).Uint32BE(),
			Priority: int32(h.Attrs().Get(unix.NFTA_HOOK_PRIORITY).Uint32BE()),
			Policy:   Verdict{Code: int32(a.Get(unix.NFTA_CHAIN_POLICY).Uint32BE())},
		}
	}
	return c, a.Get(flags).Uint32BE()&binding == 0
}

// decodeSet reads the definition of a set. It is false for a set that belongs to a
// rule, as in decodeChain.
func decodeSet(a nl.Attrs) (Set, bool) {
	typ := func(number, size uint16) Type { return Type{a.Get(number).Uint32BE(), a.Get(size).Uint32BE()} }
	s := Set{
		Name:  a.Get(unix.NFTA_SET_NAME).Text(),
		Flags: a.Get(unix.NFTA_SET_FLAGS).Uint32BE(),
		Key:   typ(unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN),
		Data:  typ(unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN),
		extra: canonical(a, unix.NFTA_SET_TIMEOUT, unix.NFTA_SET_GC_INTERVAL, unix.NFTA_SET_OBJ_TYPE, unix.NFTA_SET_DESC),
	}
	return s, s.Flags&unix.NFT_SET_ANONYMOUS == 0
}

func decodeRule(a nl.Attrs) Rule {
	r := Rule{Comment: decodeComment(a.Get(unix.NFTA_RULE_USERDATA)), Handle: a.Get(unix.NFTA_RULE_HANDLE).Uint64BE()}
	for _, v := range a.Get(unix.NFTA_RULE_EXPRESSIONS).Attrs().All() {
		e := v.Attrs()
		r.Exprs = append(r.Exprs, Expr{e.Get(unix.NFTA_EXPR_NAME).Text(), e.Get(unix.NFTA_EXPR_DATA).Attrs()})
	}
	return r
}

// decodeComment is the inverse of encodeComment. For data that encodeComment
// would not write, it returns a text that differs from all our comments.
func decodeComment(data []byte) string {
	const header = 2
	if len(data) == 0 {
		return ""
	}
	if len(data) > header {
		if text := string(data[header : len(data)-1]); string(encodeComment(text)) == string(data) {
			return text
		}
	}
	return fmt.Sprintf("user data %x", data)
}
