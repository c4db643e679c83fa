package host

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// families is the set of the address families that a node's pods have.
type families struct{ v4, v6 bool }

func familiesOf(subnets []netip.Prefix) (f families) {
	for _, p := range subnets {
		if family.Of(p.Addr()) == family.IPv4 {
			f.v4 = true
		} else {
			f.v6 = true
		}
	}
	return f
}

func (f families) meet(o families) bool { return f.v4 && o.v4 || f.v6 && o.v6 }

func (f families) String() string {
	return map[families]string{{v4: true}: "IPv4", {v6: true}: "IPv6", {true, true}: "IPv4 and IPv6"}[f]
}

// apart names the peers whose pods have no address family in common with this
// host's pods.
func apart(own registry.Node, nodes []registry.Node) error {
	here := familiesOf(own.Subnets)
	var errs []error
	for _, n := range nodes {
		there := familiesOf(n.Subnets)
		if len(n.Subnets) == 0 || here.meet(there) {
			continue
		}
		errs = append(errs, fmt.Errorf("peer %q has only %s pod subnets, and this host only %s ones, so their pods don't reach each other: give one of the two hosts a subnet of the other family too",
			n.Name, there, here))
	}
	return registry.Summary(errs)
}

// fitting returns this host's node without its IPv6 subnets if the underlay is too
// narrow for them and pods can have IPv4 alone; the error says so. The MAC address of
// the VTEP follows from an IPv4 subnet as long as there is one (subnet.VTEPMAC), so it
// stays the one that peers compute.
func fitting(in Input) (registry.Node, error) {
	ipv4 := family.IPv4.Filter(in.Own.Subnets)
	err := vxlan.CheckIPv6(in.Underlay)
	if err == nil || len(ipv4) == 0 || len(ipv4) == len(in.Own.Subnets) {
		return in.Own, nil
	}
	own := in.Own
	own.Subnets = ipv4
	return own, fmt.Errorf("this host's pods have IPv4 alone, and its subnets %v are left out: %w", family.IPv6.Filter(in.Own.Subnets), err)
}

// disagreeing names the peers whose tunnel runs over the other family, as far as the
// registry shows it: with underlayFamily auto a host takes the family of its first
// address. Packets of two such hosts don't arrive, because the kernel opens the
// tunnel's socket for one family.
func disagreeing(in Input) error {
	want := in.Config.Underlay
	set := in.Config.UnderlayFamily != 0 || want.Address.IsValid() || want.Reaches.IsValid()
	if set && !in.Announced {
		return nil // most likely on all hosts; then the order of the addresses means nothing
	}
	var errs []error
	here := family.Of(in.Underlay.Address)
	for _, n := range in.Nodes {
		if n.Name == in.Own.Name || len(n.Addresses) < 2 { // of one address, the peer is left out
			continue
		}
		if there := family.Of(n.Addresses[0]); there != here {
			errs = append(errs, fmt.Errorf("peer %q has its %s address first in the registry, so its tunnel runs over %[2]s, while this host's runs over %[3]s (%[4]s on %[5]s): write the addresses of all nodes in one order, or set underlayFamily on all hosts",
				n.Name, there, here, in.Underlay.Address, in.Underlay.Name))
		}
	}
	return registry.Summary(errs)
}

// singleStack names the nodes with single-stack pods in a network that has both
// families. Nothing is wrong with them: their pods talk in the family that they
// have.
func singleStack(nodes []registry.Node) string {
	names := map[families][]string{}
	for _, n := range nodes {
		f := familiesOf(n.Subnets)
		names[f] = append(names[f], n.Name)
	}
	v4, v6 := names[families{v4: true}], names[families{v6: true}]
	if len(names[families{true, true}]) == 0 && (len(v4) == 0 || len(v6) == 0) {
		return ""
	}
	var parts []string
	if len(v4) > 0 {
		parts = append(parts, "IPv4 only: "+few(v4))
	}
	if len(v6) > 0 {
		parts = append(parts, "IPv6 only: "+few(v6))
	}
	return strings.Join(parts, "; ")
}

// few returns the first names of a list that may have thousands.
func few(names []string) string {
	const shown = 5
	text := strings.Join(names[:min(shown, len(names))], ", ")
	if more := len(names) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
