package vxlan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

// checkOptions refuses what the kernel refuses, and what has no effect over the
// family of the tunnel: whoever asks for it expects something else.
func checkOptions(o tunnel.Options, local netip.Addr) error {
	ports := o.SourcePorts
	switch {
	case ports != tunnel.PortRange{} && (ports.Low == 0 || ports.Low >= ports.High):
		return fmt.Errorf("source ports %s: expected the first one and, larger, the one after the last", ports)
	case o.TTL < tunnel.InheritTTL || o.TTL > 255:
		return fmt.Errorf("ttl %s: expected 1 to 255, auto or inherit", o.TTL)
	case o.DF > tunnel.DFInherit:
		return fmt.Errorf("df %s: expected unset, set or inherit", o.DF)
	case o.DF != tunnel.DFUnset && local.Is6():
		return fmt.Errorf("df is %s, but the tunnel runs over IPv6 (%s), which has no such flag and no fragmenting routers: set df to unset", o.DF, local)
	}
	return nil
}

// optionsOver returns the options as they have an effect over the family of the
// tunnel. A host that sends no checksums has to accept what the others send.
func optionsOver(local netip.Addr, o tunnel.Options) tunnel.Options {
	o.AcceptZeroChecksum = local.Is6() && (o.AcceptZeroChecksum || o.ZeroChecksum)
	return o
}

// fixedOptions leaves those that the kernel can't change on a live device.
func fixedOptions(o tunnel.Options) tunnel.Options {
	if o.TTL != tunnel.InheritTTL {
		o.TTL = 0
	}
	o.DF = tunnel.DFUnset
	return o
}

// brokenOffload are the drivers of hardware that computes wrong checksums within
// a tunnel, so that TCP and UDP between hosts fail while ping works.
//
// vmxnet3: since Linux 5.8 the driver leaves the checksums to ESXi. Up to 5.13 the
// driver did so on UDP ports that ESXi doesn't handle (fixed by Linux commit
// b22580233d47). On the standard ports, packets are lost with ESXi 7 and 8 and
// newer drivers, too (cilium #21801, calico #4727 and #9433, kubernetes #72370).
//
// Another known fault needs no entry: before 5.7 the kernel's NAT made a wrong
// checksum of a zero one when it changed the tunnel's own packets (Linux commit
// ea64d8d6c675, kubernetes #88986). Ours have checksums unless ZeroChecksum says
// otherwise, and every kernel that is still maintained has the fix.
var brokenOffload = []string{"vmxnet3"}

// offloads decides for an underlay with these drivers.
func offloads(o tunnel.Offload, drivers []string) bool {
	if o != tunnel.OffloadAuto {
		return o == tunnel.OffloadOn
	}
	return !slices.ContainsFunc(drivers, func(d string) bool { return slices.Contains(brokenOffload, d) })
}
