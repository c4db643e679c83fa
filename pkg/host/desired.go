package host

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/iprule"
	"github.com/overlay-cni/overlay-cni/pkg/iptables"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/routes"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// Input is everything that the desired state follows from.
type Input struct {
	Config   config.Config
	Own      registry.Node   // this host
	Nodes    []registry.Node // all hosts, this one among them, sorted by name
	Underlay underlay.Underlay
	// Former are addresses that hosts had in the registry until lately, in order.
	Former []netip.Addr
	// Claimed says that a daemon has published the VXLAN device's name on this host.
	// So a device with that name is ours, even without our alias.
	Claimed bool
	// Announced says that hosts enter themselves in the registry, each with the address
	// of its tunnel first.
	Announced bool
}

// Equal reports whether two inputs give the same desired state.
func (in Input) Equal(o Input) bool {
	return in.Claimed == o.Claimed && in.Announced == o.Announced && slices.Equal(in.Former, o.Former) && in.Own.Equal(o.Own) && slices.EqualFunc(in.Nodes, o.Nodes, registry.Node.Equal) &&
		reflect.DeepEqual(in.Underlay, o.Underlay) && reflect.DeepEqual(in.Config, o.Config)
}

// Desired is what a host should have.
type Desired struct {
	Bridge    bridge.Spec
	Routes    routes.State
	Rules     iprule.State
	Tunnel    vxlan.State
	Sysctls   Sysctls
	Firewall  *nft.Table
	IPTables  iptables.State
	Published nodestate.State
	// Given are the subnets of which the plugin gives addresses before the sync.
	Given []netip.Prefix
	// Unguarded says that pods may send with the addresses of others.
	Unguarded bool
	Conflist  cnifiles.Config // without a directory: the daemon keeps none
	// Text is the text of the configuration.
	Text string
	// Unheard says why other hosts drop what this host sends, though they exist. What
	// is desired is of use to this host's own pods all the same.
	Unheard error
	// Note is information about the network for the operator; nothing is wrong.
	Note string
}

// Compute computes the desired state. If the error is a *Refusal, there is no desired
// state. Any other error concerns peers or one family alone: the desired state leaves
// out what the error names, or the peers' pods can't reach this host's pods.
func Compute(in Input) (Desired, error) {
	own, narrow := fitting(in)
	in.Own = own
	tunnel, peers := vxlan.Desired(vxlan.Input{
		Config: vxlan.Config{
			Config: in.Config.VXLAN, MTU: in.Config.MTU, DirectRouting: in.Config.DirectRouting, Claimed: in.Claimed,
		},
		Underlay: in.Underlay, Own: in.Own, Nodes: in.Nodes,
	})
	if tunnel.Device.Name == "" {
		return Desired{}, &Refusal{peers}
	}
	table, err := firewall.Desired(firewall.Config{
		Own: in.Own.Subnets, Network: podSubnets(in.Nodes), NoMasqueradeTo: in.Config.NoMasqueradeTo,
		Masquerade: in.Config.Masquerade, Bridge: in.Config.Bridge, Tunnel: tunnelPackets(in),
	})
	if err != nil {
		return Desired{}, &Refusal{err}
	}
	var chains iptables.State
	if in.Config.IPTablesForward {
		chains, err = iptables.Desired(iptables.Config{Own: in.Own.Subnets, Bridge: in.Config.Bridge, Tunnel: in.Config.VXLAN.Device})
	}
	if err != nil {
		return Desired{}, &Refusal{err}
	}
	unheard, alone := unlisted(in), error(nil)
	if len(in.Nodes) <= 1 {
		unheard, alone = nil, unheard // nobody is there yet to drop anything
	}
	cni0 := BridgeOf(in.Config.Bridge, in.Own.Subnets, tunnel.Device.MTU)
	return Desired{
		Bridge:   cni0,
		Routes:   routesOf(cni0, tunnel),
		Rules:    rulesOf(in, tunnel),
		Tunnel:   tunnel,
		Sysctls:  sysctlsOf(in, tunnel.Device.MTU),
		Firewall: table,
		IPTables: chains,
		Published: nodestate.State{
			Node: in.Own.Name, Subnets: in.Own.Subnets, MTU: tunnel.Device.MTU,
			Bridge: in.Config.Bridge, Device: in.Config.VXLAN.Device, Underlay: in.Underlay.Kept().String(), Unguarded: !in.Config.AntiSpoofing,
		},
		Unguarded: !in.Config.AntiSpoofing,
		Conflist: cnifiles.Config{
			Dir: in.Config.CNI.ConfDir, Name: in.Config.CNI.ConfName, Content: cnifiles.Conflist(in.Config.RunDir),
		},
		Text:    in.Config.Text,
		Unheard: unheard,
		Note:    singleStack(in.Nodes),
	}, errors.Join(narrow, peers, apart(in.Own, in.Nodes), leftOut(in.Own, in.Underlay), alone, disagreeing(in))
}

// tunnelPackets describes the tunnel's packets to the firewall.
func tunnelPackets(in Input) firewall.Tunnel {
	c := in.Config.VXLAN
	t := firewall.Tunnel{Device: c.Device, VNI: c.VNI, Port: c.Port, AnySource: c.AnySource, Tracked: c.Tracked, Peers: slices.Clone(in.Former)}
	for _, n := range in.Nodes {
		if n.Name != in.Own.Name {
			t.Peers = append(t.Peers, n.Addresses...)
		}
	}
	return t
}

// routesOf returns the routes that other programs must leave alone.
func routesOf(b bridge.Spec, tunnel vxlan.State) routes.State {
	s := routes.State{Bridge: b.Name, Addresses: b.Want().Addresses, Peers: make(map[netip.Prefix]bool, len(tunnel.Routes))}
	for p := range tunnel.Routes {
		s.Peers[p] = true
	}
	return s
}

// rulesOf returns the rules of policy routing. One subnet of the tunnel is enough to see
// where the host's packets go.
func rulesOf(in Input, tunnel vxlan.State) iprule.State {
	s := iprule.State{
		Own: in.Own.Subnets, Subnets: podSubnets(in.Nodes), Bridge: in.Config.Bridge, Tunnel: in.Config.VXLAN.Device,
		Sources: in.Underlay.Addresses,
	}
	tunneled := map[family.Family]netip.Prefix{}
	for p, r := range tunnel.Routes {
		first, ok := tunneled[family.Of(p.Addr())]
		if r.Over == 0 && (!ok || p.Compare(first) < 0) {
			tunneled[family.Of(p.Addr())] = p
		}
	}
	for _, f := range family.All() {
		if p, ok := tunneled[f]; ok {
			s.Tunneled = append(s.Tunneled, p)
		}
	}
	return s
}

// Refusal says why an input allows no network on this host.
type Refusal struct{ err error }

func (r *Refusal) Error() string { return r.err.Error() }

// Unwrap returns the reason.
func (r *Refusal) Unwrap() error { return r.err }

func podSubnets(nodes []registry.Node) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range nodes {
		all = append(all, n.Subnets...)
	}
	return all
}

// BridgeOf returns the bridge of a node with these pod subnets. The MTU is in
// bytes.
func BridgeOf(name string, subnets []netip.Prefix, mtu int) bridge.Spec {
	s := bridge.Spec{Name: name, MTU: mtu}
	for _, p := range subnets {
		s.Gateways = append(s.Gateways, netip.PrefixFrom(subnet.Gateway(p), p.Bits()))
	}
	return s
}

// ErrNotListed says that the registry does not list this host.
var ErrNotListed = errors.New("is not in the registry")

// OwnNode finds this host among the nodes, which are sorted by name. The error is
// ErrNotListed.
func OwnNode(name string, nodes []registry.Node) (registry.Node, error) {
	i, found := slices.BinarySearchFunc(nodes, name, func(n registry.Node, name string) int { return strings.Compare(n.Name, name) })
	if found {
		return nodes[i], nil
	}
	const shown = 10
	var names []string
	for _, n := range nodes[:min(shown, len(nodes))] {
		names = append(names, n.Name)
	}
	if len(nodes) > shown {
		names = append(names, "...")
	}
	return registry.Node{}, fmt.Errorf("node %q %w, which has %q: add it there, or set nodeName to one of these", name, ErrNotListed, names)
}

// leftOut returns an error if the registry has no address of this host in the family
// of the tunnel: then all other hosts leave this host out. The address in the registry
// may differ from the tunnel's source, because the network may translate addresses.
func leftOut(own registry.Node, u underlay.Underlay) error {
	if slices.ContainsFunc(own.Addresses, func(a netip.Addr) bool { return family.Of(a) == family.Of(u.Address) }) {
		return nil
	}
	return fmt.Errorf("node %q has the addresses %v in the registry, but its tunnel uses %s on %s, of the other family, so other hosts leave this one out: add an address of the tunnel's family, or change underlayFamily on all hosts",
		own.Name, own.Addresses, u.Address, u.Name)
}

// unlisted returns an error if the registry lacks the address from which this host
// sends: then other hosts drop its packets. leftOut is about the other family. With NAT
// the others see another address than this host.
func unlisted(in Input) error {
	own, u := in.Own, in.Underlay
	if in.Config.VXLAN.AnySource || own.NAT || leftOut(own, u) != nil || slices.Contains(slices.Concat(own.Addresses, in.Former), u.Address) {
		return nil
	}
	return fmt.Errorf("node %q has the addresses %v in the registry, but its tunnel sends from %s on %s, so other hosts drop its packets: correct the registry or underlay, or set vxlan.checkSource to false on all hosts if the network translates addresses",
		own.Name, own.Addresses, u.Address, u.Name)
}
