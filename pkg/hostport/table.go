package hostport

import (
	"golang.org/x/sys/unix"
)

// TableName is the name of the table, of family inet.
const TableName = "overlay-cni-ports"

// Places of the chains among those of other tables, as nft names them.
const (
	hookPrerouting  = unix.NF_INET_PRE_ROUTING
	hookOutput      = unix.NF_INET_LOCAL_OUT
	hookPostrouting = unix.NF_INET_POST_ROUTING

	priorityRaw    = -300
	priorityDstNAT = -100
	prioritySrcNAT = 100
)

// skeleton are the messages that make the table with everything but the
// elements. They fail if there is a table, so that two who make it at once
// don't both add their rules.
func skeleton() []message {
	messages := []message{tables(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		attrs{}.text(unix.NFTA_TABLE_NAME, TableName).u32(unix.NFTA_TABLE_FLAGS, 0))}
	for i, s := range sets() {
		messages = append(messages, s.message(uint32(i+1)))
	}
	for _, c := range chains() {
		messages = append(messages, c.message())
		for _, r := range c.rules {
			messages = append(messages, r.message(c.name))
		}
	}
	return messages
}

// set is a set or, if it has data, a map. Keys and data are lists of fields.
type set struct {
	name      string
	key, data []fieldType
}

type fieldType struct {
	nft  uint32 // its number in nft, which lists the set's elements by it
	size int
}

func (f family) address() fieldType { return fieldType{f.dataType, f.size} }

func protocolField() fieldType { return fieldType{12, 1} } // inet_proto
func portField() fieldType     { return fieldType{13, 2} } // inet_service
func nameField() fieldType     { return fieldType{41, unix.IFNAMSIZ} }

func sets() []set {
	all := []set{{name: bridges, key: []fieldType{nameField()}}}
	for _, f := range families() {
		pod := []fieldType{f.address(), portField()}
		all = append(all,
			set{f.ports(), []fieldType{protocolField(), portField()}, pod},
			set{f.bound(), []fieldType{protocolField(), f.address(), portField()}, pod},
			set{f.hairpin(), []fieldType{f.address(), f.address()}, nil})
	}
	return all
}

func (s set) message(id uint32) message {
	keyType, keyLen := concat(s.key)
	flags := uint32(0)
	if s.data != nil {
		flags = unix.NFT_SET_MAP
	}
	a := attrs{}.text(unix.NFTA_SET_TABLE, TableName).text(unix.NFTA_SET_NAME, s.name).
		u32(unix.NFTA_SET_ID, id).u32(unix.NFTA_SET_FLAGS, flags).
		u32(unix.NFTA_SET_KEY_TYPE, keyType).u32(unix.NFTA_SET_KEY_LEN, keyLen)
	if s.name == bridges {
		// Names are the one type that nft doesn't take for big-endian; it needs
		// to be told in data of its own: key byte order, length, host's.
		a = a.bytes(unix.NFTA_SET_USERDATA, native.AppendUint32([]byte{0, 4}, 1))
	}
	if s.data != nil {
		dataType, dataLen := concat(s.data)
		a = a.u32(unix.NFTA_SET_DATA_TYPE, dataType).u32(unix.NFTA_SET_DATA_LEN, dataLen)
	}
	return tables(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, a)
}

// concat is the type and the size of fields in a row. nft has 6 bits for each
// type, the first field's the highest.
func concat(fields []fieldType) (nft, size uint32) {
	const typeBits = 6
	for _, f := range fields {
		nft = nft<<typeBits | f.nft
		size += uint32(align(f.size))
	}
	return nft, size
}

// chain is a chain that the kernel calls.
type chain struct {
	name, kind     string
	hook, priority int
	rules          []rule
}

func (c chain) message() message {
	hook := attrs{}.u32(unix.NFTA_HOOK_HOOKNUM, uint32(c.hook)).u32(unix.NFTA_HOOK_PRIORITY, uint32(int32(c.priority)))
	return tables(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, attrs{}.
		text(unix.NFTA_CHAIN_TABLE, TableName).text(unix.NFTA_CHAIN_NAME, c.name).
		nest(unix.NFTA_CHAIN_HOOK, hook).u32(unix.NFTA_CHAIN_POLICY, verdictAccept).text(unix.NFTA_CHAIN_TYPE, c.kind))
}

// chains are all of the table. The two for translation of destinations are the
// same: one sees what comes in, the other what the host itself sends.
func chains() []chain {
	return []chain{
		{"localnet", "filter", hookPrerouting, priorityRaw, localnetRules()},
		{"prerouting", "nat", hookPrerouting, priorityDstNAT, portRules()},
		{"output", "nat", hookOutput, priorityDstNAT, portRules()},
		{"postrouting", "nat", hookPostrouting, prioritySrcNAT, sourceRules()},
	}
}

// rule is a list of the kernel's instructions. A packet leaves it at the first
// test that it fails.
type rule struct {
	comment string
	steps   []attrs
}

func (r rule) message(chain string) message {
	var list attrs
	for _, s := range r.steps {
		list = list.nest(unix.NFTA_LIST_ELEM, s)
	}
	// nft's form of a comment: type 0, length, text.
	comment := append([]byte{0, byte(len(r.comment) + 1)}, append([]byte(r.comment), 0)...)
	return tables(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, attrs{}.
		text(unix.NFTA_RULE_TABLE, TableName).text(unix.NFTA_RULE_CHAIN, chain).
		nest(unix.NFTA_RULE_EXPRESSIONS, list).bytes(unix.NFTA_RULE_USERDATA, comment))
}

// portRules lead ports of the host to pods. A port of one address goes before
// the same port of all.
func portRules() []rule {
	var rules []rule
	for _, f := range families() {
		rules = append(rules,
			portRule(f, f.bound(), f.address()),
			portRule(f, f.ports()))
	}
	return rules
}

// portRule asks the map first and the FIB second: most packets miss the map,
// and that costs less. The registers hold the key from slot 0 on, what the map
// has for it from slot 8.
func portRule(f family, set string, address ...fieldType) rule {
	const found = 8
	r := rule{"ports of the host that lead to pods", is(f)}
	if f.except.IsValid() {
		r.steps = append(r.steps, networkHeader(f.source, f.size, 0), differ(0, f.except.AsSlice()))
	}
	r.steps = append(r.steps, meta(unix.NFT_META_L4PROTO, 0))
	next := 1
	for _, a := range address {
		r.steps = append(r.steps, networkHeader(f.dest, a.size, next))
		next += a.size / slotSize
	}
	r.steps = append(r.steps, destinationPort(next), find(set, 0, found))
	r.steps = append(r.steps, toThisHost(0)...)
	r.steps = append(r.steps, translate(f, found, found+f.size/slotSize))
	return r
}

// sourceRules give the bridge's address to callers that a pod couldn't answer:
// itself, and 127.0.0.0/8. Ports are chosen at random because choosing them in
// a row makes connections race for the same one.
func sourceRules() []rule {
	var rules []rule
	for _, f := range families() {
		pair := append(is(f),
			networkHeader(f.source, f.size, 0), networkHeader(f.dest, f.size, f.size/slotSize),
			in(f.hairpin(), 0), masquerade())
		rules = append(rules, rule{"a pod that calls itself by a port of the host", pair})
	}
	v4 := families()[0]
	return append(rules, rule{"the host that calls a pod by a port of 127.0.0.0/8",
		append(is(v4), networkHeader(v4.source, 1, 0), equal(0, []byte{127}), meta(unix.NFT_META_OIFNAME, 0), in(bridges, 0), masquerade())})
}

// localnetRules undo for pods what route_localnet does: without them the
// services on the host's 127.0.0.0/8 would be open to pods. Answers to the
// host's own calls pass, because here, before connection tracking, they still
// have the bridge's address.
func localnetRules() []rule {
	v4 := families()[0]
	var rules []rule
	for _, offset := range []int{v4.dest, v4.source} {
		rules = append(rules, rule{"127.0.0.0/8 is not for pods", append(is(v4),
			networkHeader(offset, 1, 0), equal(0, []byte{127}), meta(unix.NFT_META_IIFNAME, 0), in(bridges, 0), drop())})
	}
	return rules
}
