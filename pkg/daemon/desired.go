package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// errNotListed says that the registry doesn't know this host.
var errNotListed = errors.New("is not in the registry")

// input is everything that the desired state follows from.
type input struct {
	config   config.Config
	nodes    []registry.Node
	own      registry.Node
	underlay underlay.Underlay
	// claimed: an earlier run said that the VXLAN device's name is ours.
	claimed bool
}

// desired is what this host should have.
type desired struct {
	vxlan  vxlan.State
	bridge bridge.Spec
	rules  rules
	// routers are the names of the devices that IPv4 is routed through.
	routers []string
	publish nodestate.State
	// runtime is what the container runtime reads; none without a directory.
	runtime cnifiles.Config
}

// wishes compute the desired state. What they remember saves work and never
// makes a difference: the result follows from the input alone.
type wishes struct {
	rules    lastRules
	families lastFamilies
}

// lastFamilies are what was said last of the nodes' address families.
type lastFamilies struct {
	own   registry.Node
	nodes []registry.Node
	known bool
	apart error
	note  string
}

func (l *lastFamilies) of(own registry.Node, nodes []registry.Node) (note string, err error) {
	if !l.known || !own.Equal(l.own) || !registry.SameSubnets(nodes, l.nodes) {
		l.apart, l.note = apart(own, nodes), oneFamily(nodes)
	}
	l.own, l.nodes, l.known = own, nodes, true
	return l.note, l.apart
}

// desire computes the desired state. An error beside a state that is not the
// zero value is about peers that are left out.
func (w *wishes) desire(in input) (desired, error) {
	tunnel, peers := vxlan.Desired(vxlan.Input{
		Config: vxlan.Config{
			Config: in.config.VXLAN, MTU: in.config.MTU, DirectRouting: in.config.DirectRouting, Claimed: in.claimed,
		},
		Underlay: in.underlay, Own: in.own, Nodes: in.nodes,
	})
	if tunnel.Device.Name == "" {
		return desired{}, peers
	}
	rules, err := w.rules.of(in)
	if err != nil {
		return desired{}, err
	}
	return desired{
		vxlan:   tunnel,
		bridge:  bridgeOf(in.config.Bridge, in.own.Subnets, tunnel.Device.MTU),
		rules:   rules,
		routers: routers(in),
		publish: nodestate.State{
			Node: in.own.Name, Subnets: in.own.Subnets, MTU: tunnel.Device.MTU,
			Bridge: in.config.Bridge, Device: in.config.VXLAN.Device,
		},
		runtime: cnifiles.Config{
			Dir: in.config.CNI.ConfDir, Name: in.config.CNI.ConfName, Content: cnifiles.Conflist(in.config.RunDir),
		},
	}, peers
}

func podSubnets(nodes []registry.Node) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range nodes {
		all = append(all, n.Subnets...)
	}
	return all
}

func bridgeOf(name string, subnets []netip.Prefix, mtu int) bridge.Spec {
	s := bridge.Spec{Name: name, MTU: mtu}
	for _, p := range subnets {
		s.Gateways = append(s.Gateways, netip.PrefixFrom(subnet.Gateway(p), p.Bits()))
	}
	return s
}

// ownNode finds this host among the nodes, which are sorted by name.
func ownNode(name string, nodes []registry.Node) (registry.Node, error) {
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
	return registry.Node{}, fmt.Errorf("node %q %w, which has %q: add it there, or set nodeName to one of these", name, errNotListed, names)
}
