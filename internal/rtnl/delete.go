package rtnl

import (
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// DelDumped deletes an address, a route, a neighbour or a rule that one of the Each
// functions listed. Raw is the entry's Raw, which has all its attributes, so the
// kernel can't delete a similar entry instead. Text names the entry for errors.
func (b *Batch) DelDumped(text string, kind Dumped, raw string) *nl.Request {
	header := []byte(raw)
	switch {
	case kind == DumpedRoute:
		header = withoutNextHop(header)
	case kind == DumpedNeighbor && header[0] == unix.AF_BRIDGE:
		header[ndmFlags] |= unix.NTF_SELF // otherwise the kernel looks for a bridge
	}
	return b.add("delete "+text, uint16(kind), 0, header)
}

// Dumped is a kind of object that DelDumped deletes.
type Dumped uint16

// The value of a kind is the type of the message that deletes it. To the kernel,
// an FDB entry is a neighbour.
const (
	DumpedAddr     Dumped = unix.RTM_DELADDR
	DumpedRoute    Dumped = unix.RTM_DELROUTE
	DumpedNeighbor Dumped = unix.RTM_DELNEIGH
	DumpedRule     Dumped = unix.RTM_DELRULE
)

const ndmFlags = 10 // offset in struct ndmsg

// withoutNextHop removes the next hop from a route that refers to a nexthop
// object. The kernel lists both, but refuses both in one request.
func withoutNextHop(raw []byte) []byte {
	attrs := nl.Attrs(raw[unix.SizeofRtMsg:])
	if attrs.Get(rtaNextHopID) == nil {
		return raw
	}
	kept := append(nl.Attrs(nil), raw[:unix.SizeofRtMsg]...)
	for typ, value := range attrs.All() {
		switch typ {
		case unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH:
		default:
			kept = kept.Bytes(typ, value)
		}
	}
	return kept
}
