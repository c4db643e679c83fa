package nft

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Op is one operation of a transaction.
type Op struct {
	// Elements are what the operation adds or deletes.
	Elements []Element
	id       ID
	typ      uint16 // NFT_MSG_*
	flags    uint16
	attrs    nl.Attrs
}

// header is the length of struct nfgenmsg: family, version, resource.
const header = 4

// message is a message about nf_tables.
func message(f Family, typ, flags uint16, attrs nl.Attrs) nl.Message {
	body := make([]byte, 0, header+len(attrs))
	body = append(body, byte(f), unix.NFNETLINK_V0, 0, 0)
	return nl.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | typ, Flags: flags, Body: append(body, attrs...)}
}

func (o Op) message() nl.Message { return message(o.id.Family, o.typ, o.flags, o.attrs) }

// String describes the operation for an error.
func (o Op) String() string {
	a := o.attrs
	switch o.typ {
	case unix.NFT_MSG_NEWTABLE:
		return "make the table"
	case unix.NFT_MSG_DELTABLE:
		return "delete the table"
	case unix.NFT_MSG_NEWCHAIN:
		return "make chain " + a.Get(unix.NFTA_CHAIN_NAME).Text()
	case unix.NFT_MSG_DELCHAIN:
		return "delete chain " + a.Get(unix.NFTA_CHAIN_NAME).Text()
	case unix.NFT_MSG_NEWRULE:
		return "add a rule to chain " + a.Get(unix.NFTA_RULE_CHAIN).Text()
	case unix.NFT_MSG_DELRULE:
		return "delete rules of chain " + a.Get(unix.NFTA_RULE_CHAIN).Text()
	case unix.NFT_MSG_NEWSET:
		return "make set " + a.Get(unix.NFTA_SET_NAME).Text()
	case unix.NFT_MSG_DELSET:
		return "delete set " + a.Get(unix.NFTA_SET_NAME).Text()
	case unix.NFT_MSG_NEWSETELEM:
		return "add elements to set " + a.Get(unix.NFTA_SET_ELEM_LIST_SET).Text()
	case unix.NFT_MSG_DELSETELEM:
		return "delete elements of set " + a.Get(unix.NFTA_SET_ELEM_LIST_SET).Text()
	}
	return fmt.Sprintf("message %d", o.typ)
}

// makes reports whether the operation makes something. For such an operation,
// ENOENT means that the kernel lacks a type of chain or an instruction. For any
// other, ENOENT means that the table, chain or set is gone.
func (o Op) makes() bool {
	switch o.typ {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWSET, unix.NFT_MSG_NEWRULE:
		return true
	}
	return false
}

// MakeTable makes the table, which must not exist.
func (id ID) MakeTable(flags uint32) Op {
	return Op{id: id, typ: unix.NFT_MSG_NEWTABLE, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL,
		attrs: nl.Attrs{}.Text(unix.NFTA_TABLE_NAME, id.Name).Uint32BE(unix.NFTA_TABLE_FLAGS, flags)}
}

// DeleteTable deletes the table with all that is in it.
func (id ID) DeleteTable() Op {
	return Op{id: id, typ: unix.NFT_MSG_DELTABLE, attrs: nl.Attrs{}.Text(unix.NFTA_TABLE_NAME, id.Name)}
}

// MakeChain makes a chain without rules. If the chain exists, it gets the policy.
func (id ID) MakeChain(c Chain) Op {
	a := id.in().Text(unix.NFTA_CHAIN_NAME, c.Name)
	if h := c.Hook; h != (Hook{}) {
		a = a.Nest(unix.NFTA_CHAIN_HOOK, nl.Attrs{}.
			Uint32BE(unix.NFTA_HOOK_HOOKNUM, h.Number).Uint32BE(unix.NFTA_HOOK_PRIORITY, uint32(h.Priority))).
			Uint32BE(unix.NFTA_CHAIN_POLICY, uint32(h.Policy.Code)).Text(unix.NFTA_CHAIN_TYPE, h.Type)
	}
	return Op{id: id, typ: unix.NFT_MSG_NEWCHAIN, flags: unix.NLM_F_CREATE, attrs: a}
}

// DeleteChain deletes a chain, which must have no rules.
func (id ID) DeleteChain(name string) Op {
	return Op{id: id, typ: unix.NFT_MSG_DELCHAIN, attrs: id.in().Text(unix.NFTA_CHAIN_NAME, name)}
}

// FlushChain deletes all rules of a chain.
func (id ID) FlushChain(name string) Op {
	return Op{id: id, typ: unix.NFT_MSG_DELRULE, attrs: id.in().Text(unix.NFTA_RULE_CHAIN, name)}
}

// AddRule adds a rule at the end of a chain.
func (id ID) AddRule(chain string, r Rule) Op {
	return Op{id: id, typ: unix.NFT_MSG_NEWRULE, flags: unix.NLM_F_CREATE | unix.NLM_F_APPEND, attrs: id.rule(chain, r)}
}

// InsertRule inserts a rule before the one that has the handle.
func (id ID) InsertRule(chain string, before uint64, r Rule) Op {
	return Op{id: id, typ: unix.NFT_MSG_NEWRULE, flags: unix.NLM_F_CREATE,
		attrs: id.rule(chain, r).Uint64BE(unix.NFTA_RULE_POSITION, before)}
}

// DeleteRule deletes the rule that has the handle.
func (id ID) DeleteRule(chain string, handle uint64) Op {
	return Op{id: id, typ: unix.NFT_MSG_DELRULE,
		attrs: id.in().Text(unix.NFTA_RULE_CHAIN, chain).Uint64BE(unix.NFTA_RULE_HANDLE, handle)}
}

func (id ID) rule(chain string, r Rule) nl.Attrs {
	var list nl.Attrs
	for _, e := range r.Exprs {
		list = list.Nest(unix.NFTA_LIST_ELEM, nl.Attrs{}.Text(unix.NFTA_EXPR_NAME, e.Name).Nest(unix.NFTA_EXPR_DATA, e.Data))
	}
	a := id.in().Text(unix.NFTA_RULE_CHAIN, chain).Nest(unix.NFTA_RULE_EXPRESSIONS, list)
	if r.Comment != "" {
		a = a.Bytes(unix.NFTA_RULE_USERDATA, encodeComment(r.Comment))
	}
	return a
}

// encodeComment writes a comment as nft does: type 0, length, text with a zero.
func encodeComment(comment string) []byte {
	return append(append([]byte{0, byte(len(comment) + 1)}, comment...), 0)
}

// MakeSet makes a set. The number must be unique in the transaction.
func (id ID) MakeSet(s Set, number uint32) Op {
	a := id.in().Text(unix.NFTA_SET_NAME, s.Name).
		Uint32BE(unix.NFTA_SET_ID, number).Uint32BE(unix.NFTA_SET_FLAGS, s.Flags).
		Uint32BE(unix.NFTA_SET_KEY_TYPE, s.Key.Number).Uint32BE(unix.NFTA_SET_KEY_LEN, s.Key.Size)
	if s.Key == IfName {
		// nft assumes big-endian keys unless its user data say otherwise: type 0 (byte
		// order of the key), length 4, value 1 (the host's order).
		a = a.Bytes(unix.NFTA_SET_USERDATA, binary.NativeEndian.AppendUint32([]byte{0, 4}, 1))
	}
	if s.Data != (Type{}) {
		a = a.Uint32BE(unix.NFTA_SET_DATA_TYPE, s.Data.Number).Uint32BE(unix.NFTA_SET_DATA_LEN, s.Data.Size)
	}
	return Op{id: id, typ: unix.NFT_MSG_NEWSET, flags: unix.NLM_F_CREATE, attrs: a}
}

// DeleteSet deletes a set, which no rule may use.
func (id ID) DeleteSet(name string) Op {
	return Op{id: id, typ: unix.NFT_MSG_DELSET, attrs: id.in().Text(unix.NFTA_SET_NAME, name)}
}

// FlushSet deletes all elements of a set.
func (id ID) FlushSet(name string) Op {
	return Op{id: id, typ: unix.NFT_MSG_DELSETELEM, attrs: id.inSet(name)}
}

// AddElements adds elements, all of one set. The kernel refuses an element whose key
// the set has already, unless the data are the same.
func (id ID) AddElements(elements ...Element) Op {
	return Op{Elements: elements, id: id, typ: unix.NFT_MSG_NEWSETELEM, flags: unix.NLM_F_CREATE,
		attrs: id.elements(elements, true)}
}

// DeleteElements deletes elements, all of one set, by their keys.
func (id ID) DeleteElements(elements ...Element) Op {
	return Op{Elements: elements, id: id, typ: unix.NFT_MSG_DELSETELEM, attrs: id.elements(elements, false)}
}

// elements encodes elements. A range becomes two: its first key, and the key
// after its last.
func (id ID) elements(elements []Element, data bool) nl.Attrs {
	var list nl.Attrs
	for _, e := range elements {
		for _, b := range e.boundaries() {
			list = list.Nest(unix.NFTA_LIST_ELEM, b.attrs(data))
		}
	}
	return id.inSet(elements[0].Set).Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list)
}

// chunked splits elements over several operations. The elements of an operation
// are one attribute, which has to stay below 64 KiB; a range of IPv6 addresses
// takes 72 bytes.
func chunked(elements []Element, do func(...Element) Op) []Op {
	const perMessage = 256
	var ops []Op
	for chunk := range slices.Chunk(elements, perMessage) {
		ops = append(ops, do(chunk...))
	}
	return ops
}

// tableName is the attribute that names the table. It has the same number in the
// messages about tables, chains, rules, sets and elements.
const tableName = unix.NFTA_TABLE_NAME

// in begins the attributes of a message about something in the table.
func (id ID) in() nl.Attrs { return nl.Attrs{}.Text(tableName, id.Name) }

func (id ID) inSet(name string) nl.Attrs {
	return id.in().Text(unix.NFTA_SET_ELEM_LIST_SET, name)
}
