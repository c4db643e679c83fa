package vxlan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

const kindVXLAN = "vxlan"

// MAC is a link-layer address that can be compared and be a map's key.
type MAC [6]byte

// macOf tolerates what is no Ethernet address: it gives the zero MAC, which no
// VTEP has.
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
	// Addresses are the device's own.
	Addresses map[netip.Prefix]Address
	// Routes are those of the main table, by destination: over the device, and
	// ours over other interfaces.
	Routes map[netip.Prefix]Route
	// Neighbors are by IP address.
	Neighbors map[netip.Addr]Neighbor
	// Forwards are the forwarding entries, by the MAC address of the VTEP.
	Forwards map[MAC]Forward
	// Unmanaged is what is on the device, or marked as ours, and fits nowhere
	// above, such as a route of another table. Always empty in a desired state.
	Unmanaged []Unexpected
	// Renamed are the names of other devices with the alias of this network, in
	// order. Always empty in a desired state.
	Renamed []string
}

// Device is the VXLAN device itself. The zero value: there is none.
type Device struct {
	Name   string
	Tunnel tunnel.Tunnel
	MTU    int
	MAC    MAC
	Up     bool
	Alias  string
	// AutoAddress says that the kernel gives the device a link-local IPv6
	// address when it goes up.
	AutoAddress bool
	// TxChecksum says that inner checksums are left to the underlay's hardware
	// (ethtool: tx-checksum-ip-generic), as the kernel has it at first.
	TxChecksum bool
	// Index is the kernel's number of the device: 0 in a desired state.
	Index int
	// Kind is what the kernel calls the type of the device. Other kinds than
	// vxlan occur in an actual state, where somebody else has taken the name.
	Kind string
	// Claimed, in a desired state, says that a device of this name is ours
	// even if its alias does not say so, because an earlier run made it.
	Claimed bool
}

// Unexpected is an entry that Desired would never make, as the kernel listed it.
type Unexpected struct {
	Text string
	// Kind and Raw serve to delete exactly this entry.
	Kind rtnl.Dumped
	Raw  string
}

// Address is one of the device's own.
type Address struct {
	// Unexpected is set if the address has a peer address, which Desired never
	// gives one. In the types below it is alike: nil for an entry that Desired
	// might have made.
	Unexpected *Unexpected
}

// Route is the way to a subnet.
type Route struct {
	Via netip.Addr
	// Over is the index of the interface of a direct route; 0 stands for the
	// device.
	Over       int
	Unexpected *Unexpected
}

// Neighbor says which VTEP has an address.
type Neighbor struct {
	MAC        MAC
	Unexpected *Unexpected
}

// Forward says which host has a VTEP.
type Forward struct {
	Host       netip.Addr
	Unexpected *Unexpected
}

func (r Route) String() string    { return r.Unexpected.or(describeNextHop(r.Via, r.Over)) }
func (n Neighbor) String() string { return n.Unexpected.or(n.MAC.String()) }
func (f Forward) String() string  { return f.Unexpected.or(f.Host.String()) }

// describeNextHop is the part of a route behind its destination.
func describeNextHop(via netip.Addr, over int) string {
	if over == 0 {
		return "via " + via.String()
	}
	return fmt.Sprintf("directly via %s on interface %d", via, over)
}

// The protocols of our routes: numbers that no routing daemon is known to use
// (see rt_protos of iproute2).
const (
	firstProtocol = 208
	protocols     = 32
)

// protocol spreads routes over several protocol numbers. The kernel hashes its
// IPv4 next hops by interface, protocol and metric, but not by the next hop
// itself (fib_info_hashfn), so routes that differ in nothing else are in one
// chain that it searches for each new one: 5,000 take 0.35 s instead of 0.07.
func protocol(dst netip.Prefix) uint8 {
	// The subnets of a cluster differ in any of the bytes, so all count.
	var sum uint32
	for _, b := range dst.Addr().As16() {
		sum = sum*31 + uint32(b)
	}
	return firstProtocol + uint8(sum%protocols)
}

func (o *Unexpected) or(text string) string {
	if o == nil {
		return text
	}
	return o.Text
}

// OwnProtocol says that a routing protocol is one that we give routes.
func OwnProtocol(proto uint8) bool {
	return proto >= firstProtocol && proto < firstProtocol+protocols
}

// ours says that a route has the protocol that we would give it.
func ours(dst netip.Prefix, proto uint8) bool { return OwnProtocol(proto) && proto == protocol(dst) }

// Config is the part of the daemon's configuration that describes the tunnel.
type Config struct {
	tunnel.Config
	MTU int // bytes; 0: what fits into the underlay's
	// DirectRouting leaves out the tunnel to peers on the underlay's link.
	DirectRouting bool
	// Claimed is as in Device.
	Claimed bool
}

// Input is all that the desired state follows from.
type Input struct {
	Config   Config
	Underlay underlay.Underlay
	// Own is this host's node.
	Own registry.Node
	// Nodes are all hosts; Own may be among them and is left out by its name.
	Nodes []registry.Node
}

// ErrNoSubnet is why a host without a pod subnet can't have a device: its
// addresses follow from the subnet.
var ErrNoSubnet = errors.New("has no pod subnet yet")

// Desired computes what should be. A peer that can't be reached is left out
// and reported in the error, which joins one for each such peer. The State is
// zero, and there is an error, if not even the device can be described.
func Desired(in Input) (State, error) {
	if len(in.Own.Subnets) == 0 {
		return State{}, fmt.Errorf("node %q %w: add one to the registry", in.Own.Name, ErrNoSubnet)
	}
	mtu, err := deviceMTU(in)
	if err != nil {
		return State{}, err
	}
	if err := checkOptions(in.Config.Options, in.Underlay.Address); err != nil {
		return State{}, err
	}
	s := newState(len(in.Nodes))
	s.Device = Device{
		Name: in.Config.Device,
		Kind: kindVXLAN,
		Tunnel: tunnel.Tunnel{
			VNI: in.Config.VNI, Port: in.Config.Port,
			Underlay: in.Underlay.Index, Local: in.Underlay.Address,
			Options: optionsOver(in.Underlay.Address, in.Config.Options),
		},
		TxChecksum: offloads(in.Config.TxChecksum, in.Underlay.Drivers),
		MTU:        mtu, MAC: vtepMAC(in.Own), Up: true, Alias: network.Default.TunnelAlias(), Claimed: in.Config.Claimed,
	}
	for _, p := range in.Own.Subnets {
		s.Addresses[subnet.Host(subnet.VTEP(p))] = Address{}
	}
	var errs []error
	for _, peer := range in.Nodes {
		if peer.Name == in.Own.Name {
			continue
		}
		if err := s.addPeer(peer, in); err != nil {
			errs = append(errs, fmt.Errorf("peer %q is left out: %w", peer.Name, err))
		}
	}
	return s, errors.Join(errs...)
}

func newState(peers int) State {
	return State{
		Addresses: map[netip.Prefix]Address{},
		Routes:    make(map[netip.Prefix]Route, peers),
		Neighbors: make(map[netip.Addr]Neighbor, peers),
		Forwards:  make(map[MAC]Forward, peers),
	}
}

// Overhead returns how many bytes of the underlay's MTU the tunnel takes if the
// outer packets are of the family: 50 for IPv4, 70 for IPv6.
func Overhead(outer family.Family) int {
	const inner = 8 + 8 + 14 // UDP, VXLAN (RFC 7348), the inner Ethernet header
	if outer == family.IPv4 {
		return 20 + inner
	}
	return 40 + inner
}

// minIPv6MTU is what every IPv6 link must carry (RFC 8200, 5). The kernel
// takes IPv6 off an interface with less.
const minIPv6MTU = 1280

func deviceMTU(in Input) (int, error) {
	most := in.Underlay.MTU - Overhead(family.Of(in.Underlay.Address))
	mtu := in.Config.MTU
	if mtu == 0 {
		mtu = most
	}
	if mtu > most {
		return 0, fmt.Errorf("mtu %d is too large for underlay %s, which leaves %d of its %d to the pods: set mtu to 0 or at most %d",
			mtu, in.Underlay.Name, most, in.Underlay.MTU, most)
	}
	for _, p := range in.Own.Subnets {
		if p.Addr().Is6() && mtu < minIPv6MTU {
			return 0, fmt.Errorf("pod subnet %s is IPv6, which needs an MTU of %d, but mtu is %d over underlay %s: raise mtu or that interface's MTU",
				p, minIPv6MTU, mtu, in.Underlay.Name)
		}
	}
	return mtu, nil
}

func vtepMAC(n registry.Node) MAC { return macOf(subnet.VTEPMAC(n.Subnets)) }

// addPeer adds all entries of a peer, or none. A subnet of a family that this
// host's pods don't have is of no use here and left out. The tunnel's entries
// are there for direct routes, too: so a change from one to the other is one
// route that is replaced, and no packet on its way finds an entry gone.
func (s *State) addPeer(peer registry.Node, in Input) error {
	if len(peer.Subnets) == 0 {
		return nil // nothing to reach: it has not got its subnet yet
	}
	host, err := hostAddress(peer, in.Underlay)
	if err != nil && in.needsTunnel(peer) {
		return err
	}
	mac := vtepMAC(peer)
	if err := s.conflict(peer, mac, in); err != nil {
		return err
	}
	for _, p := range peer.Subnets {
		if !hasFamily(in.Own.Subnets, p) {
			continue
		}
		via := subnet.VTEP(p)
		if host.IsValid() {
			s.Neighbors[via] = Neighbor{MAC: mac}
			s.Forwards[mac] = Forward{Host: host}
		}
		s.Routes[p] = Route{Via: via}
		if gateway := in.gateway(peer, p); gateway.IsValid() {
			s.Routes[p] = Route{Via: gateway, Over: in.Underlay.Index}
		}
	}
	return nil
}

func hasFamily(ps []netip.Prefix, like netip.Prefix) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Addr().Is4() == like.Addr().Is4() })
}

// hostAddress is the peer's address in the family of the underlay.
func hostAddress(peer registry.Node, u underlay.Underlay) (netip.Addr, error) {
	for _, a := range peer.Addresses {
		if a.Is4() != u.Address.Is4() {
			continue
		}
		if a == u.Address {
			return netip.Addr{}, fmt.Errorf("its address %s is this host's own: correct the registry", a)
		}
		return a, nil
	}
	return netip.Addr{}, fmt.Errorf("it has no %s address, but the tunnel runs from %s on %s: add one to the registry, or set underlayFamily to the other family, on all hosts",
		family.Of(u.Address), u.Address, u.Name)
}

// conflict reports that a peer's entries would take another node's place. The
// registry lets no overlapping subnets through, so what remains are names that
// hash to one MAC address.
func (s *State) conflict(peer registry.Node, mac MAC, in Input) error {
	if _, taken := s.Forwards[mac]; taken || mac == s.Device.MAC {
		return fmt.Errorf("its VTEP would have the MAC address %s of %q: give one of them another first pod subnet",
			mac, holder(mac, peer, in))
	}
	for _, p := range peer.Subnets {
		_, taken := s.Routes[p]
		if _, own := s.Addresses[subnet.Host(subnet.VTEP(p))]; own || taken {
			return fmt.Errorf("its pod subnet %s is another node's too: give every node its own", p)
		}
	}
	return nil
}

// holder finds who has a MAC address, which is only ever needed in an error.
func holder(mac MAC, not registry.Node, in Input) string {
	for _, n := range append([]registry.Node{in.Own}, in.Nodes...) {
		if n.Name != not.Name && vtepMAC(n) == mac {
			return n.Name
		}
	}
	return ""
}
