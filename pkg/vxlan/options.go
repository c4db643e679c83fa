package vxlan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

// checkOptions refuses options that the kernel refuses. It also refuses options
// without effect in the tunnel's family, because whoever sets one expects an
// effect.
func checkOptions(o tunnel.Options, local netip.Addr) error {
	ports := o.SourcePorts
	switch {
	case ports != tunnel.PortRange{} && (ports.Low == 0 || ports.Low >= ports.High):
		return fmt.Errorf("source ports %s: expected LOW-HIGH with 0 < LOW < HIGH, where HIGH is not used itself", ports)
	case o.TTL < tunnel.InheritTTL || o.TTL > 255:
		return fmt.Errorf("ttl %s: expected 1 to 255, auto or inherit", o.TTL)
	case o.TOS != tunnel.InheritTOS && o.TOS&ecn != 0:
		return fmt.Errorf("tos %s: expected inherit, or a multiple of 4 up to 252, because the two lowest bits are the inner packet's", o.TOS)
	case o.DF > tunnel.DFInherit:
		return fmt.Errorf("df %s: expected unset, set or inherit", o.DF)
	case o.DF != tunnel.DFUnset && local.Is6():
		return fmt.Errorf("df is %s, but the tunnel runs over IPv6 (%s), which has no such flag and no fragmenting routers: set df to unset", o.DF, local)
	}
	return nil
}

// ecn are the bits of a TOS that the kernel copies from the inner packet (RFC 6040).
const ecn = 3

// optionsOver returns the options that have an effect in the tunnel's family. A
// host that sends no checksums has to accept packets without checksums from the
// others.
func optionsOver(local netip.Addr, o tunnel.Options) tunnel.Options {
	o.AcceptZeroChecksum = local.Is6() && (o.AcceptZeroChecksum || o.ZeroChecksum)
	return o
}

// fixedOptions clears the options that the kernel can change on a live device.
func fixedOptions(o tunnel.Options) tunnel.Options {
	if o.TTL != tunnel.InheritTTL {
		o.TTL = 0
	}
	o.DF, o.TOS = tunnel.DFUnset, 0
	return o
}

// brokenOffload are the drivers of hardware that computes wrong checksums within
// a tunnel, so that TCP and UDP between hosts fail while ping works.
//
// vmxnet3: since Linux 5.8 the driver leaves the checksums to ESXi. Up to 5.13
// this included UDP ports for which ESXi doesn't compute checksums (fixed by
// Linux commit b22580233d47). Even on the standard ports, and with newer
// drivers, packets are lost with ESXi 7 and 8 (cilium #21801, calico #4727 and
// #9433, kubernetes #72370).
//
// Another known fault needs no entry: before 5.7, when the kernel's NAT changed
// the tunnel's own packets, it turned a zero checksum into a wrong one (Linux
// commit ea64d8d6c675, kubernetes #88986). Ours have checksums unless
// ZeroChecksum says otherwise, and every kernel that is still maintained has the
// fix.
var brokenOffload = []string{"vmxnet3"}

// offloads decides for an underlay with these drivers.
func offloads(o tunnel.Offload, drivers []string) bool {
	if o != tunnel.OffloadAuto {
		return o == tunnel.OffloadOn
	}
	return !slices.ContainsFunc(drivers, func(d string) bool { return slices.Contains(brokenOffload, d) })
}
