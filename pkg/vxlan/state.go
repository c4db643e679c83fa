package vxlan

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

const kindVXLAN = "vxlan"

// MAC is a link-layer address that can be compared and be a map's key.
type MAC [6]byte

// macOf returns the zero MAC, which no VTEP has, for anything but an Ethernet
// address.
func macOf(a net.HardwareAddr) MAC {
	if len(a) != len(MAC{}) {
		return MAC{}
	}
	return MAC(a)
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// State is the device with everything on it, desired or actual. The keys of
// its maps are those by which the kernel replaces an entry.
type State struct {
	Device Device
	// Addresses are the addresses of the device, with their prefix lengths.
	Addresses map[netip.Prefix]Address
	// Routes are the routes of the main table by destination: all routes over the
	// device, and our routes over other interfaces.
	Routes map[netip.Prefix]Route
	// Neighbors are the neighbour entries of the device by IP address.
	Neighbors map[netip.Addr]Neighbor
	// FDB holds the FDB entries of the device by the MAC address of the VTEP.
	FDB map[MAC]FDBEntry
	// Unmanaged are entries that fit into none of the maps, such as a route of
	// another table. They are on the device or have our protocol number. Always
	// empty in a desired state.
	Unmanaged []Unexpected
	// Renamed are the names of other devices with the alias of this network, in
	// order. Always empty in a desired state.
	Renamed []string
}

// Device is the VXLAN device itself. The zero value stands for no device.
type Device struct {
	Name   string
	Tunnel tunnel.Tunnel
	MTU    int // bytes
	MAC    MAC
	Up     bool
	Alias  string
	// AutoAddress says that the kernel gives the device a link-local IPv6
	// address when it goes up.
	AutoAddress bool
	// Master is the index of the device that the device is a port of: a bridge, a bond,
	// a VRF. A port's packets go to its master instead of the host.
	Master int
	// NoNeighbors says that ARP or multicast is off. The kernel then forgets all
	// neighbours, and takes no new ones but permanent ones.
	NoNeighbors bool
	// ProtoDown says that a program has taken the carrier away, as switches do with
	// ports that fail: the device is up and drops what it should send.
	ProtoDown bool
	// TxChecksum leaves the checksums of packets in the tunnel to the underlay's
	// hardware (ethtool: tx-checksum-ip-generic). On is the kernel's default.
	TxChecksum bool
	// Index is the kernel's number of the device: 0 in a desired state.
	Index int
	// Kind is the kernel's name for the type of the device. In an actual state it
	// differs from "vxlan" if another program uses the device's name.
	Kind string
	// XDP says that an XDP program sees the device's packets first. It is only read, and
	// not compared: see Notes.
	XDP bool
	// Claimed says that an earlier run made a device of this name, so the device is
	// ours even without our alias. It is set in a desired state only.
	Claimed bool
}

// Unexpected is an entry that Desired would never make, as the kernel listed it.
type Unexpected struct {
	Text string
	// Kind and Raw serve to delete exactly this entry.
	Kind rtnl.Dumped
	Raw  string
}

// Address is an address of the device.
type Address struct {
	// Unexpected is set if Desired would never make such an address: one with a
	// peer address. In the types below, too, it is nil for an entry that Desired
	// might have made.
	Unexpected *Unexpected
}

// Route is a route to a pod subnet.
type Route struct {
	Via netip.Addr
	// Over is the index of the interface of a direct route; 0 stands for the
	// VXLAN device.
	Over       int
	Unexpected *Unexpected
}

// Neighbor maps the IP address of a VTEP to its MAC address.
type Neighbor struct {
	MAC        MAC
	Unexpected *Unexpected
}

// FDBEntry maps the MAC address of a VTEP to the underlay address of its host.
type FDBEntry struct {
	Host       netip.Addr
	Unexpected *Unexpected
}

func (r Route) String() string    { return r.Unexpected.textOr(describeNextHop(r.Via, r.Over)) }
func (n Neighbor) String() string { return n.Unexpected.textOr(n.MAC.String()) }
func (f FDBEntry) String() string { return f.Unexpected.textOr(f.Host.String()) }

// describeNextHop is the text after a route's destination.
func describeNextHop(via netip.Addr, over int) string {
	if over == 0 {
		return "via " + via.String()
	}
	return fmt.Sprintf("directly via %s on interface %d", via, over)
}

// The protocol numbers of our routes. No routing daemon is known to use them (see
// rt_protos of iproute2).
const (
	firstProtocol = 208
	protocols     = 32
)

// protocol spreads routes over several protocol numbers. The kernel hashes its
// IPv4 next hops by interface, protocol and metric, but not by the next hop's
// address (fib_info_hashfn). So routes that differ in the next hop alone share
// one hash chain, which the kernel searches at each insert: 5,000 routes take
// 0.35 s instead of 0.07 s.
func protocol(dst netip.Prefix) uint8 {
	// The subnets of a cluster may differ in any byte.
	var sum uint32
	for _, b := range dst.Addr().As16() {
		sum = sum*31 + uint32(b)
	}
	return firstProtocol + uint8(sum%protocols)
}

func (u *Unexpected) textOr(text string) string {
	if u == nil {
		return text
	}
	return u.Text
}

// OwnProtocol reports whether a routing protocol number is one of those that our
// routes have.
func OwnProtocol(proto uint8) bool {
	return proto >= firstProtocol && proto < firstProtocol+protocols
}

// ours reports whether a route has the protocol number that ours would have.
func ours(dst netip.Prefix, proto uint8) bool { return OwnProtocol(proto) && proto == protocol(dst) }

func newState(peers int) State {
	return State{
		Addresses: map[netip.Prefix]Address{},
		Routes:    make(map[netip.Prefix]Route, peers),
		Neighbors: make(map[netip.Addr]Neighbor, peers),
		FDB:       make(map[MAC]FDBEntry, peers),
	}
}
