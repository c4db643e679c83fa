package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const (
	// underlayMTU is Ethernet's.
	underlayMTU = 1500
	// apiPort is kube-apiserver's usual one.
	apiPort = 6443
)

// Family is an IP version, and the cluster's networks in it. They are in
// namespaces of their own, so they clash with nothing; and the same in every
// cluster, so logs read alike.
type Family struct {
	Name string
	// Underlay has the nodes, and the switch, where clients are.
	Underlay netip.Prefix
	Switch   netip.Addr
	control  netip.Addr // the first node; the others follow
	// Pods is cut into a subnet for each node by kube-controller-manager: /24, /64.
	Pods     netip.Prefix
	Services netip.Prefix
	api      netip.Addr // the Service "kubernetes" takes the first address
	DNS      netip.Addr
}

var known = [...]Family{
	{
		Name:     "ipv4",
		Underlay: netip.MustParsePrefix("192.168.88.0/24"),
		Switch:   netip.MustParseAddr("192.168.88.254"),
		control:  netip.MustParseAddr("192.168.88.10"),
		Pods:     netip.MustParsePrefix("10.244.0.0/16"),
		Services: netip.MustParsePrefix("10.96.0.0/16"),
		api:      netip.MustParseAddr("10.96.0.1"),
		DNS:      netip.MustParseAddr("10.96.0.10"),
	},
	{
		Name:     "ipv6",
		Underlay: netip.MustParsePrefix("fd00:88::/64"),
		Switch:   netip.MustParseAddr("fd00:88::fe"),
		control:  netip.MustParseAddr("fd00:88::10"),
		Pods:     netip.MustParsePrefix("fd00:244::/56"),
		Services: netip.MustParsePrefix("fd00:96::/112"),
		api:      netip.MustParseAddr("fd00:96::1"),
		DNS:      netip.MustParseAddr("fd00:96::a"),
	},
}

func family(name string) (Family, error) {
	var names []string
	for _, f := range known {
		if f.Name == name {
			return f, nil
		}
		names = append(names, f.Name)
	}
	return Family{}, fmt.Errorf("unknown family %q: expected some of %s", name, strings.Join(names, ", "))
}

// Of is the address of this family, the zero Addr if there is none.
func (f Family) Of(all []netip.Addr) netip.Addr {
	for _, a := range all {
		if a.BitLen() == f.Switch.BitLen() {
			return a
		}
	}
	return netip.Addr{}
}

// Node is a machine of the cluster.
type Node struct {
	Name      string
	Addresses []netip.Addr // one of each family, in the cluster's order
}

// Control is the node with the control plane. Only pods that tolerate it run there.
const Control = "control"

const (
	// usualWorkers beside the control plane: two, for traffic between nodes, neither of
	// which is special.
	usualWorkers = 2
	// maxWorkers is more than anybody asks for: Down looks for that many.
	maxWorkers = 9
)

// nodeNames are those of all nodes, the control plane's first.
func nodeNames(workers int) []string {
	all := []string{Control}
	for i := range workers {
		all = append(all, fmt.Sprintf("worker%d", i+1))
	}
	return all
}

// nodes have addresses in a row.
func nodes(families []Family, workers int) []Node {
	var next []netip.Addr
	for _, f := range families {
		next = append(next, f.control)
	}
	var all []Node
	for _, name := range nodeNames(workers) {
		all = append(all, Node{Name: name, Addresses: slices.Clone(next)})
		for i := range next {
			next[i] = next[i].Next()
		}
	}
	return all
}

// joined are the families' own ones of something, with commas, which is how
// Kubernetes' programs take them.
func joined[T fmt.Stringer](families []Family, of func(Family) T) string {
	var all []string
	for _, f := range families {
		all = append(all, of(f).String())
	}
	return strings.Join(all, ",")
}

func podCIDRs(families []Family) string {
	return joined(families, func(f Family) netip.Prefix { return f.Pods })
}

func serviceCIDRs(families []Family) string {
	return joined(families, func(f Family) netip.Prefix { return f.Services })
}

// wildcard is what a server listens on to be reached in all families: that of
// IPv6 takes IPv4, too.
func wildcard(families []Family) netip.Addr {
	for _, f := range families {
		if f.Switch.Is6() {
			return netip.IPv6Unspecified()
		}
	}
	return netip.IPv4Unspecified()
}
