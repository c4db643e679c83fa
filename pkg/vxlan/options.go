package vxlan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// Options are how the tunnel's own packets are made. The zero value is what the
// kernel does unasked.
type Options struct {
	SourcePorts PortRange
	// ZeroChecksum leaves out the UDP checksum of what is sent. Over IPv6 the
	// receivers have to agree, see AcceptZeroChecksum.
	ZeroChecksum bool
	// AcceptZeroChecksum takes such packets over IPv6, where the kernel refuses
	// them otherwise (RFC 6936). Over IPv4 they are always taken.
	AcceptZeroChecksum bool
	TTL                TTL
	DF                 DF
}

// PortRange are the UDP source ports of the tunnel's packets, one for each flow
// within, from Low to below High: the kernel never uses High itself. The zero
// value is the host's net.ipv4.ip_local_port_range.
type PortRange struct{ Low, High uint16 }

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.Low, r.High) }

// TTL is the time to live (IPv6: hop limit) of the tunnel's packets, 1 to 255;
// 0 is the host's usual one.
type TTL int16

// InheritTTL takes that of the packet within.
const InheritTTL TTL = -1

func (t TTL) String() string {
	switch t {
	case InheritTTL:
		return "inherit"
	case 0:
		return "auto"
	}
	return fmt.Sprint(int16(t))
}

// DF says what the flag "don't fragment" of the tunnel's packets is over IPv4.
// IPv6 has no such flag: its routers never fragment.
type DF uint8

// The numbers are the kernel's (VXLAN_DF_*, linux/if_link.h).
const (
	DFUnset DF = iota
	DFSet
	DFInherit // as in the packet within
)

func (d DF) String() string {
	names := []string{"unset", "set", "inherit"}
	if int(d) < len(names) {
		return names[d]
	}
	return fmt.Sprintf("DF %d", uint8(d))
}

// checkOptions refuses what the kernel refuses, and what has no effect: whoever asks
// for it has something else in mind.
func (o Options) checkOptions(local netip.Addr) error {
	ports := o.SourcePorts
	switch {
	case ports != PortRange{} && (ports.Low == 0 || ports.Low >= ports.High):
		return fmt.Errorf("source ports %s: expected the first one and, larger, the one after the last", ports)
	case o.TTL < InheritTTL || o.TTL > 255:
		return fmt.Errorf("ttl %s: expected 1 to 255, auto or inherit", o.TTL)
	case o.DF > DFInherit:
		return fmt.Errorf("%s: expected unset, set or inherit", o.DF)
	case o.DF != DFUnset && local.Is6():
		return fmt.Errorf("df is %s, but the tunnel runs over IPv6 (%s), which has no such flag and no fragmenting routers: set df to unset", o.DF, local)
	case o.AcceptZeroChecksum && local.Is4():
		return fmt.Errorf("zero checksums are to be accepted, but the tunnel runs over IPv4 (%s), which always does: turn that off", local)
	}
	return nil
}

// fixedOptions are those that the kernel can't change on a live device.
func (o Options) fixedOptions() Options {
	if o.TTL != InheritTTL {
		o.TTL = 0
	}
	o.DF = DFUnset
	return o
}

// tunnelOf is the tunnel as the kernel has it.
func tunnelOf(v rtnl.VXLANTunnel) Tunnel {
	t := Tunnel{
		VNI: v.VNI, Port: v.Port, Underlay: v.Underlay, Local: v.Local, Learning: v.Learning, More: v.More,
		Options: Options{
			SourcePorts: PortRange(v.SourcePorts), ZeroChecksum: v.ZeroChecksum, AcceptZeroChecksum: v.AcceptZeroChecksum,
			TTL: TTL(v.TTL), DF: DF(v.DF),
		},
	}
	if v.InheritTTL {
		t.TTL = InheritTTL
	}
	return t
}

// message is the reverse of tunnelOf.
func (t Tunnel) message() rtnl.VXLANTunnel {
	v := rtnl.VXLANTunnel{
		VNI: t.VNI, Port: t.Port, Underlay: t.Underlay, Local: t.Local,
		SourcePorts: rtnl.PortRange(t.SourcePorts), ZeroChecksum: t.ZeroChecksum, AcceptZeroChecksum: t.AcceptZeroChecksum,
		InheritTTL: t.TTL == InheritTTL, DF: uint8(t.DF),
	}
	if !v.InheritTTL {
		v.TTL = uint8(t.TTL)
	}
	return v
}

// Offload says who computes the checksums of the packets in the tunnel: the
// underlay's hardware or the CPU.
type Offload uint8

// Auto is off where the hardware is known to get it wrong, else on.
const (
	OffloadAuto Offload = iota
	OffloadOn
	OffloadOff
)

// brokenOffload are the drivers of which the hardware gets checksums within a
// tunnel wrong, so that TCP and UDP between hosts fail while ping works.
//
// vmxnet3: since Linux 5.8 the driver leaves them to ESXi. Up to 5.13 it did so
// on ports on which ESXi doesn't (fixed by Linux commit b22580233d47), and on
// the standard ports packets are lost with ESXi 7 and 8 and newer drivers, too
// (cilium #21801, calico #4727 and #9433, kubernetes #72370).
//
// Another known fault needs no entry: before 5.7 the kernel's NAT made a wrong
// checksum of a zero one when it changed the tunnel's own packets (Linux commit
// ea64d8d6c675, kubernetes #88986). Ours have checksums unless ZeroChecksum says
// otherwise, and every kernel that is still maintained has the fix.
var brokenOffload = []string{"vmxnet3"}

// on decides for an underlay with these drivers.
func (o Offload) on(drivers []string) bool {
	if o != OffloadAuto {
		return o == OffloadOn
	}
	return !slices.ContainsFunc(drivers, func(d string) bool { return slices.Contains(brokenOffload, d) })
}
