// Package tunnel describes a VXLAN tunnel (RFC 7348) in one set of types:
// pkg/config parses into them, pkg/vxlan compares them with the kernel's state,
// and internal/rtnl encodes them.
package tunnel

import (
	"fmt"
	"net/netip"
)

// Config holds an operator's settings for the tunnel device. They must be the
// same on all hosts, except for Device, TxChecksum, AnySource
// and Tracked.
type Config struct {
	Device string // the name of the device
	VNI    uint32 // 24 bits
	Port   uint16 // UDP port that the tunnel receives on
	Options
	TxChecksum Offload
	// AnySource takes the tunnel's packets from any address, not just from those
	// that other hosts have in the registry.
	AnySource bool
	// Tracked leaves the tunnel's packets to connection tracking.
	Tracked bool
}

// Tunnel holds the encapsulation settings of a device, either the desired ones
// or those read from the kernel.
type Tunnel struct {
	VNI  uint32 // 24 bits
	Port uint16 // UDP port that the tunnel receives on
	// Underlay is the index of the interface that carries the tunnel.
	Underlay int
	// Local is the source address of the tunnel's packets. Its family is the
	// tunnel's.
	Local netip.Addr
	Options
	// Learning and More are only read. Learning says that the kernel learns FDB
	// entries from received packets. More are options that we never set, as ip
	// prints them.
	Learning bool
	More     string
}

// Options are how the tunnel's own packets are made. The zero value is what the
// kernel does by default.
type Options struct {
	SourcePorts PortRange
	// ZeroChecksum leaves out the UDP checksum of sent packets. Over IPv6 the
	// receivers have to accept such packets, see AcceptZeroChecksum.
	ZeroChecksum bool
	// AcceptZeroChecksum accepts packets without a UDP checksum over IPv6, where
	// the kernel drops them by default (RFC 6936). Over IPv4 it has no effect: the
	// kernel always accepts them.
	AcceptZeroChecksum bool
	TTL                TTL
	DF                 DF
	TOS                TOS
}

// PortRange is the range of UDP source ports of the tunnel's packets. Each inner
// flow gets one port. High is exclusive: the kernel never uses it. The zero
// value is the host's net.ipv4.ip_local_port_range.
type PortRange struct{ Low, High uint16 }

func (r PortRange) String() string {
	if r == (PortRange{}) {
		return "auto"
	}
	return fmt.Sprintf("%d-%d", r.Low, r.High)
}

// TTL is the time to live (IPv6: hop limit) of the tunnel's packets, 1 to 255;
// 0 is the host's default.
type TTL int16

// InheritTTL copies the TTL of the inner packet.
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

// TOS is the type of service (IPv6: traffic class) of the tunnel's packets: DSCP in
// the upper six bits. The lower two are ECN's, which the kernel copies from the
// inner packet.
type TOS uint8

// InheritTOS copies DSCP from the inner packet, too. The number is the kernel's.
const InheritTOS TOS = 1

func (t TOS) String() string {
	if t == InheritTOS {
		return "inherit"
	}
	return fmt.Sprint(uint8(t))
}

// DF says whether the tunnel's IPv4 packets have the flag "don't fragment". IPv6
// has no such flag, because IPv6 routers never fragment.
type DF uint8

// The numbers are the kernel's (VXLAN_DF_*, linux/if_link.h).
const (
	DFUnset DF = iota
	DFSet
	DFInherit // copied from the inner packet
)

func (d DF) String() string { return name(d, "unset", "set", "inherit") }

// Offload says who computes the checksums of the packets in the tunnel: the
// underlay's hardware or the CPU.
type Offload uint8

// OffloadAuto means on, unless the hardware is known to compute wrong checksums.
const (
	OffloadAuto Offload = iota
	OffloadOn
	OffloadOff
)

func (o Offload) String() string { return name(o, "auto", "on", "off") }

func name[T ~uint8](v T, names ...string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%d", uint8(v))
}
