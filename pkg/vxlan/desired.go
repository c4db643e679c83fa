package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// Config is the part of the daemon's configuration that describes the tunnel.
type Config struct {
	tunnel.Config
	MTU int // bytes; 0: the underlay's less the overhead
	// DirectRouting sends to peers on the underlay's link without the tunnel.
	DirectRouting bool
	// Claimed is as in Device.
	Claimed bool
}

// Input is everything that the desired state depends on.
type Input struct {
	Config   Config
	Underlay underlay.Underlay
	// Own is this host's node.
	Own registry.Node
	// Nodes are all hosts. Desired skips the one that has Own's name.
	Nodes []registry.Node
}

// ErrNoSubnet says that the device's addresses are unknown, because they follow
// from the host's pod subnets and there are none.
var ErrNoSubnet = errors.New("has no pod subnet yet")

// Desired computes the desired state. It leaves out peers that can't be reached;
// then the state is still good, and the error joins one error for each such
// peer. If the device itself can't be described, the state is zero. The error is
// then ErrNoSubnet, or says which setting doesn't fit the underlay.
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

func vtepMAC(n registry.Node) MAC { return macOf(subnet.VTEPMAC(n.Subnets)) }

// addPeer adds all entries of a peer, or none. It leaves out subnets of a family
// that this host's pods don't have. Peers with a direct route have the tunnel's
// neighbour and FDB entries as well. So a change between direct routing and the
// tunnel replaces one route, and no packet on its way misses an entry.
func (s *State) addPeer(peer registry.Node, in Input) error {
	if len(peer.Subnets) == 0 {
		return nil // the peer has no pods to reach yet
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
			s.FDB[mac] = FDBEntry{Host: host}
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

// hostAddress is the peer's first address in the family of the underlay.
func hostAddress(peer registry.Node, u underlay.Underlay) (netip.Addr, error) {
	for _, a := range peer.Addresses {
		if a.Is4() != u.Address.Is4() {
			continue
		}
		if a == u.Address {
			return netip.Addr{}, fmt.Errorf("its address %s is this host's own: correct the registry", a)
		}
		if n, ok := anyHost(a, u); ok {
			return netip.Addr{}, fmt.Errorf("its address %s is the first or last of the underlay's network %s, which mean any host there: correct the registry", a, n)
		}
		return a, nil
	}
	return netip.Addr{}, fmt.Errorf("it has no %s address, but the tunnel runs from %s on %s: add one to the registry, or set underlayFamily to the other family, on all hosts",
		family.Of(u.Address), u.Address, u.Name)
}

// anyHost returns the network of the underlay in which an address is no single host's:
// the network's own address, which in IPv6 all routers have, and the broadcast
// address, which only IPv4 has. Networks of two addresses have neither.
func anyHost(a netip.Addr, u underlay.Underlay) (netip.Prefix, bool) {
	for _, n := range u.Networks {
		if n.Bits() < a.BitLen()-1 && (a == n.Addr() || a.Is4() && a == subnet.Last(n)) {
			return n, true
		}
	}
	return netip.Prefix{}, false
}

// conflict returns an error if a peer's entries would replace another node's. The
// registry lets no overlapping subnets through, but two subnets may hash to one
// MAC address.
func (s *State) conflict(peer registry.Node, mac MAC, in Input) error {
	if _, taken := s.FDB[mac]; taken || mac == s.Device.MAC {
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

// holder finds the name of the other node with a MAC address, for an error.
func holder(mac MAC, except registry.Node, in Input) string {
	for _, n := range append([]registry.Node{in.Own}, in.Nodes...) {
		if n.Name != except.Name && vtepMAC(n) == mac {
			return n.Name
		}
	}
	return ""
}
