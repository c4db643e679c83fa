package hostport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// This file makes the kernel forget UDP flows that lead elsewhere than new ones
// would. TCP and SCTP need no such thing: a connection ends with its ends, and
// the kernel asks the table about the next one.

// Messages, attributes and flags of linux/netfilter/nfnetlink_conntrack.h and,
// of the filter, net/netfilter/nf_internals.h.
const (
	conntrackGet    = 1
	conntrackDelete = 2

	ctaOrig   = 1
	ctaReply  = 2
	ctaID     = 12
	ctaZone   = 18
	ctaFilter = 25

	ctaIP    = 1
	ctaProto = 2

	ctaProtoNumber = 1
	ctaProtoSource = 2
	ctaProtoDest   = 3

	filterIPSource    = 1 << 0
	filterIPDest      = 1 << 1
	filterProtoNumber = 1 << 3
	filterProtoSource = 1 << 4
	filterProtoDest   = 1 << 5
)

// pattern describes UDP flows.
type pattern struct {
	family family
	port   uint16     // that the first packet was sent to
	dest   netip.Addr // that the first packet was sent to; not valid: any
	// answerer is who is to answer: dest itself, or the pod it was led to.
	// Its port doesn't matter if it is 0.
	answerer netip.AddrPort
}

// forgetBefore drops flows that are older than the elements and lead to the
// host itself. Flows that the host forwards to that port of others stay.
func (k *Kernel) forgetBefore(elements []Element) error {
	var patterns []pattern
	var local []netip.Addr
	for _, e := range elements {
		if e.Protocol != UDP {
			continue
		}
		addresses := []netip.Addr{e.HostIP}
		if !e.HostIP.IsValid() {
			var err error
			if local, err = localAddresses(local); err != nil {
				return err
			}
			addresses = local
		}
		for _, a := range addresses {
			if a.BitLen() == e.Pod.BitLen() {
				patterns = append(patterns, pattern{familyOf(a), e.HostPort, a, netip.AddrPortFrom(a, 0)})
			}
		}
	}
	return k.forget(patterns)
}

// forgetAfter drops flows that the elements led to their pods.
func (k *Kernel) forgetAfter(elements []Element) error {
	var patterns []pattern
	for _, e := range elements {
		if e.Protocol == UDP {
			to := netip.AddrPortFrom(e.Pod, e.ContainerPort)
			patterns = append(patterns, pattern{familyOf(e.Pod), e.HostPort, e.HostIP, to})
		}
	}
	return k.forget(patterns)
}

// localAddresses are the addresses of the host, read unless they are known.
func localAddresses(known []netip.Addr) ([]netip.Addr, error) {
	if known != nil {
		return known, nil
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of the host: %w", err)
	}
	for _, l := range list {
		if p, err := netip.ParsePrefix(l.String()); err == nil {
			known = append(known, p.Addr())
		}
	}
	return known, nil
}

// maxFlushes bounds how many patterns are flushed one by one. Each makes the
// kernel walk its whole table, which skips empty places: 0.1 ms for 262,144 of
// them, what a host of more than 4 GiB has. To list the table takes it 12 ms.
const maxFlushes = 40

func (k *Kernel) forget(patterns []pattern) error {
	for _, f := range families() {
		var err error
		if ours := f.of(patterns); len(ours) > 0 {
			err = k.forgetIn(f, ours)
		}
		if err != nil {
			return explain("drop stale UDP flows from the connection tracking (nf_conntrack_netlink)", err)
		}
	}
	return nil
}

func (f family) of(patterns []pattern) []pattern {
	var ours []pattern
	for _, p := range patterns {
		if p.family == f {
			ours = append(ours, p)
		}
	}
	return ours
}

func (k *Kernel) forgetIn(f family, patterns []pattern) error {
	// The kernel takes IPv6 addresses that differ from the filter's for those
	// that match (ctnetlink_filter_match_tuple, seen in 6.18).
	if f.size == 4 && len(patterns) <= maxFlushes {
		if err := k.flush(patterns); !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return k.pick(f, patterns)
}

// flush lets the kernel find the flows. Kernels before 6.11 say EINVAL, and do
// nothing, because they want a whole address to delete by.
func (k *Kernel) flush(patterns []pattern) error {
	// By the version the kernel knows that the family counts.
	const familyCounts = 1
	messages := make([]message, len(patterns))
	for i, p := range patterns {
		m := conntrack(p.family, conntrackDelete, p.filter())
		m.head[1], m.flags = familyCounts, unix.NLM_F_ACK
		messages[i] = m
	}
	return k.all(messages)
}

// all sends messages that are acknowledged. What is not there is fine.
func (k *Kernel) all(messages []message) error {
	answers, err := k.conn.ask(messages)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if errno := a.errno(); errno != 0 && errno != unix.ENOENT {
			return errno
		}
	}
	return nil
}

// filter are the attributes by which the kernel finds flows of the pattern.
// They say what the flow begins with and what answers it, and what of it counts.
func (p pattern) filter() attrs {
	orig, origFlags := attrs{}, uint32(filterProtoNumber|filterProtoDest)
	if p.dest.IsValid() {
		orig = nested(orig, ctaIP, attrs{}.bytes(p.family.conntrackDest(), p.dest.AsSlice()))
		origFlags |= filterIPDest
	}
	orig = nested(orig, ctaProto, attrs{}.u8(ctaProtoNumber, unix.IPPROTO_UDP).u16(ctaProtoDest, p.port))
	reply := nested(nil, ctaIP, attrs{}.bytes(p.family.conntrackSource(), p.answerer.Addr().AsSlice()))
	replyFlags := uint32(filterIPSource)
	if port := p.answerer.Port(); port != 0 {
		reply = nested(reply, ctaProto, attrs{}.u8(ctaProtoNumber, unix.IPPROTO_UDP).u16(ctaProtoSource, port))
		replyFlags |= filterProtoNumber | filterProtoSource
	}
	all := nested(nested(nil, ctaOrig, orig), ctaReply, reply)
	return nested(all, ctaFilter, counting(origFlags).bytes(ctaReply, native.AppendUint32(nil, replyFlags)))
}

// counting says what counts of a flow's first packet. Unlike all else here, the
// flags are in the host's byte order.
func counting(flags uint32) attrs { return attrs{}.bytes(ctaOrig, native.AppendUint32(nil, flags)) }

// nested is nest as the connection tracking wants it: marked as such.
func nested(a attrs, typ int, inner attrs) attrs { return a.nest(unix.NLA_F_NESTED|typ, inner) }

// Attributes for the addresses of a family's packets.
func (f family) conntrackSource() int {
	if f.size == 4 {
		return 1
	}
	return 3
}

func (f family) conntrackDest() int { return f.conntrackSource() + 1 }

// pick lists flows of the family and deletes those of the patterns one by one.
func (k *Kernel) pick(f family, patterns []pattern) error {
	byPort := map[uint16][]pattern{}
	for _, p := range patterns {
		byPort[p.port] = append(byPort[p.port], p)
	}
	deletions, err := k.list(f, byPort)
	if err != nil {
		return err
	}
	return k.inChunks(deletions)
}

func (k *Kernel) inChunks(messages []message) error {
	for start := 0; start < len(messages); start += chunk {
		if err := k.all(messages[start:min(start+chunk, len(messages))]); err != nil {
			return err
		}
	}
	return nil
}

// list returns messages that delete the flows of the patterns. The kernel tells
// of UDP only, and if there is one port, of that one only (Linux 5.8).
func (k *Kernel) list(f family, byPort map[uint16][]pattern) ([]message, error) {
	proto, flags := attrs{}.u8(ctaProtoNumber, unix.IPPROTO_UDP), uint32(filterProtoNumber)
	if len(byPort) == 1 {
		for port := range byPort {
			proto, flags = proto.u16(ctaProtoDest, port), flags|filterProtoDest
		}
	}
	ask := nested(nested(nil, ctaOrig, nested(nil, ctaProto, proto)), ctaFilter, counting(flags))
	var deletions []message
	var err error
	for range syncAttempts {
		deletions = nil
		err = k.conn.dump(conntrack(f, conntrackGet, ask), func(a attrs) {
			for _, p := range byPort[uint16(a.get(ctaOrig, ctaProto, ctaProtoDest).number())] {
				if p.matches(a) {
					deletions = append(deletions, deletion(f, a))
					return
				}
			}
		})
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	return deletions, err
}

// matches does what the kernel does by the filter.
func (p pattern) matches(flow attrs) bool {
	is := func(want netip.Addr, path ...int) bool {
		got, _ := netip.AddrFromSlice(flow.get(path...))
		return got == want
	}
	return flow.get(ctaOrig, ctaProto, ctaProtoNumber).number() == unix.IPPROTO_UDP &&
		(!p.dest.IsValid() || is(p.dest, ctaOrig, ctaIP, p.family.conntrackDest())) &&
		is(p.answerer.Addr(), ctaReply, ctaIP, p.family.conntrackSource()) &&
		(p.answerer.Port() == 0 || uint32(p.answerer.Port()) == flow.get(ctaReply, ctaProto, ctaProtoSource).number())
}

// deletion deletes one flow: the very same, not one of the same ends that
// came after it.
func deletion(f family, flow attrs) message {
	name := nested(nil, ctaOrig, flow.get(ctaOrig))
	for _, typ := range []int{ctaZone, ctaID} {
		if v := flow.get(typ); v != nil {
			name = name.bytes(typ, v)
		}
	}
	m := conntrack(f, conntrackDelete, name)
	m.flags = unix.NLM_F_ACK
	return m
}

func conntrack(f family, typ uint16, body attrs) message {
	return message{typ: conntrackSystem<<8 | typ, head: [4]byte{f.protocol, unix.NFNETLINK_V0}, body: body}
}
