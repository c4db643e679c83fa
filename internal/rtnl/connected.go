package rtnl

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// ConnectedRoute is a route that the kernel makes by itself together with an
// address: to the address, to the network around it, or to multicast groups.
type ConnectedRoute struct {
	Dst    netip.Prefix
	Src    netip.Addr // preferred source address; the zero value: none
	Index  int        // interface
	Table  uint8      // RT_TABLE_*
	Type   uint8      // RTN_*
	Metric uint32
}

// AppendConnected adds a route with the properties that the kernel would give it. If there
// is another route to the same destination, the new one comes after it. The error
// is unix.EEXIST if there is the same route.
func (b *Batch) AppendConnected(r ConnectedRoute) *nl.Request {
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	if r.Dst.Addr().Is4() {
		scope = unix.RT_SCOPE_LINK
		if r.Type == unix.RTN_LOCAL {
			scope = unix.RT_SCOPE_HOST
		}
	}
	header := []byte{byte(family.Of(r.Dst.Addr())), uint8(r.Dst.Bits()), 0, 0, r.Table, unix.RTPROT_KERNEL, scope, r.Type}
	body := nl.Attrs(native.AppendUint32(header, 0)).Addr(unix.RTA_DST, r.Dst.Addr()).Uint32(unix.RTA_OIF, uint32(r.Index))
	if r.Src.IsValid() {
		body = body.Addr(unix.RTA_PREFSRC, r.Src)
	}
	if r.Metric != 0 {
		body = body.Uint32(unix.RTA_PRIORITY, r.Metric)
	}
	return b.add("add route "+r.Dst.String(), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, body)
}
