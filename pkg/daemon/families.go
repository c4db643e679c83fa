package daemon

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// podFamilies are those of a node's pods.
type podFamilies struct{ ipv4, ipv6 bool }

func podFamiliesOf(subnets []netip.Prefix) podFamilies {
	return podFamilies{
		ipv4: slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Addr().Is4() }),
		ipv6: slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Addr().Is6() }),
	}
}

func (f podFamilies) String() string {
	return map[podFamilies]string{{true, false}: "IPv4", {false, true}: "IPv6", {true, true}: "IPv4 and IPv6"}[f]
}

// apart says of which peers' pods none talks to one of this host's.
func apart(own registry.Node, nodes []registry.Node) error {
	here := podFamiliesOf(own.Subnets)
	var errs []error
	for _, n := range nodes {
		there := podFamiliesOf(n.Subnets)
		if len(n.Subnets) == 0 || here.ipv4 && there.ipv4 || here.ipv6 && there.ipv6 {
			continue
		}
		errs = append(errs, fmt.Errorf("peer %q has pod subnets of %s alone, and this host of %s alone, so that their pods don't reach each other: give one of the two a subnet of the other family as well",
			n.Name, there, here))
	}
	return registry.Summary(errs)
}

// oneFamily tells which nodes have pods of one family alone in a network that
// has both. It is empty where all nodes are alike, and nothing is wrong where
// they aren't: these nodes' pods talk in the family that they have.
func oneFamily(nodes []registry.Node) string {
	alone := map[podFamilies][]string{}
	all := podFamilies{}
	for _, n := range nodes {
		f := podFamiliesOf(n.Subnets)
		alone[f] = append(alone[f], n.Name)
		all = podFamilies{all.ipv4 || f.ipv4, all.ipv6 || f.ipv6}
	}
	if all != (podFamilies{true, true}) {
		return ""
	}
	var parts []string
	for _, f := range []podFamilies{{ipv4: true}, {ipv6: true}} {
		if names := alone[f]; len(names) > 0 {
			parts = append(parts, fmt.Sprintf("of %s alone on %s", f, few(names)))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "pods have addresses " + strings.Join(parts, ", ")
}

// few are the first names of a list that may have thousands.
func few(names []string) string {
	const shown = 5
	text := strings.Join(names[:min(shown, len(names))], ", ")
	if more := len(names) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// tellFamilies logs which nodes have one family alone, when that changes.
func (d *daemon) tellFamilies(note string) {
	if note != d.families {
		d.log.Info("which nodes have pods of one address family alone has changed", "now", cmp.Or(note, "none"))
	}
	d.families = note
}
