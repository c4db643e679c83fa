package hostport

import (
	"golang.org/x/sys/unix"
)

// This file encodes the instructions of the kernel's rule machine that the
// table's rules are made of. Each works on registers, counted here in slots of
// 4 bytes, 16 of them.

const slotSize = unix.NFT_REG32_SIZE

// Verdicts of netfilter (linux/netfilter.h).
const (
	verdictDrop   = 0
	verdictAccept = 1
)

// register is a slot by the number that the kernel itself would give it when it
// lists a rule: four slots at the beginning of one of the old, wide registers
// go by that one's number.
func register(slot int) uint32 {
	const wide = unix.NFT_REG_SIZE / unix.NFT_REG32_SIZE
	if slot%wide == 0 {
		return uint32(unix.NFT_REG_1 + slot/wide)
	}
	return uint32(unix.NFT_REG32_00 + slot)
}

func step(name string, data attrs) attrs {
	return attrs{}.text(unix.NFTA_EXPR_NAME, name).nest(unix.NFTA_EXPR_DATA, data)
}

func meta(key uint32, to int) attrs {
	return step("meta", attrs{}.u32(unix.NFTA_META_KEY, key).u32(unix.NFTA_META_DREG, register(to)))
}

func networkHeader(offset, size, to int) attrs {
	return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, size, to)
}

// destinationPort is at the same place in TCP, UDP and SCTP.
func destinationPort(to int) attrs { return payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, to) }

func payload(base uint32, offset, size, to int) attrs {
	return step("payload", attrs{}.u32(unix.NFTA_PAYLOAD_DREG, register(to)).u32(unix.NFTA_PAYLOAD_BASE, base).
		u32(unix.NFTA_PAYLOAD_OFFSET, uint32(offset)).u32(unix.NFTA_PAYLOAD_LEN, uint32(size)))
}

func equal(slot int, value []byte) attrs  { return compare(unix.NFT_CMP_EQ, slot, value) }
func differ(slot int, value []byte) attrs { return compare(unix.NFT_CMP_NEQ, slot, value) }

func compare(op uint32, slot int, value []byte) attrs {
	return step("cmp", attrs{}.u32(unix.NFTA_CMP_SREG, register(slot)).u32(unix.NFTA_CMP_OP, op).
		nest(unix.NFTA_CMP_DATA, attrs{}.bytes(unix.NFTA_DATA_VALUE, value)))
}

// is tests the packet's family.
func is(f family) []attrs {
	return []attrs{meta(unix.NFT_META_NFPROTO, 0), equal(0, []byte{f.protocol})}
}

func in(set string, slot int) attrs {
	return step("lookup", attrs{}.text(unix.NFTA_LOOKUP_SET, set).u32(unix.NFTA_LOOKUP_SREG, register(slot)))
}

// find loads what a map has for a key.
func find(set string, key, to int) attrs {
	return step("lookup", attrs{}.text(unix.NFTA_LOOKUP_SET, set).
		u32(unix.NFTA_LOOKUP_SREG, register(key)).u32(unix.NFTA_LOOKUP_DREG, register(to)))
}

// toThisHost tests that the destination is an address of the host.
func toThisHost(slot int) []attrs {
	return []attrs{
		step("fib", attrs{}.u32(unix.NFTA_FIB_DREG, register(slot)).
			u32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE).u32(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR)),
		equal(slot, native.AppendUint32(nil, unix.RTN_LOCAL)),
	}
}

// translate gives the packet the address and the port in the slots. The flags
// say just that; newer kernels set them by themselves.
func translate(f family, address, port int) attrs {
	a, p := register(address), register(port)
	return step("nat", attrs{}.u32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT).u32(unix.NFTA_NAT_FAMILY, uint32(f.protocol)).
		u32(unix.NFTA_NAT_REG_ADDR_MIN, a).u32(unix.NFTA_NAT_REG_ADDR_MAX, a).
		u32(unix.NFTA_NAT_REG_PROTO_MIN, p).u32(unix.NFTA_NAT_REG_PROTO_MAX, p).
		u32(unix.NFTA_NAT_FLAGS, unix.NF_NAT_RANGE_MAP_IPS|unix.NF_NAT_RANGE_PROTO_SPECIFIED))
}

func masquerade() attrs {
	return step("masq", attrs{}.u32(unix.NFTA_MASQ_FLAGS, unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY))
}

func drop() attrs {
	verdict := attrs{}.u32(unix.NFTA_VERDICT_CODE, verdictDrop)
	return step("immediate", attrs{}.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT).
		nest(unix.NFTA_IMMEDIATE_DATA, attrs{}.nest(unix.NFTA_DATA_VERDICT, verdict)))
}
