package kube

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// entryOf reads a Node; own is the name of this host's Node, and current are the
// addresses that the node has in the set now. A node that joins gets its addresses and
// subnets one after the other. entryOf excludes a node without an address. A missing
// address is an error only if the node has pod subnets or is this host.
func entryOf(n *node, own string, current []netip.Addr) registry.Entry {
	e, addressErr := addressesOf(n, current)
	subnets, subnetErr := subnetsOf(n)
	e.Node.Name, e.Node.Subnets, e.Node.NAT = n.Name, subnets, n.nat
	e.Excluded = len(e.Node.Addresses) == 0 || subnetErr != nil
	switch err := errors.Join(addressErr, subnetErr); {
	case err != nil:
		e.Err = fmt.Errorf("node %q: %w", n.Name, err)
	case len(e.Node.Addresses) == 0:
		if len(subnets) > 0 || n.Name == own {
			e.Err = fmt.Errorf("node %q has no address by which other hosts reach it (status.addresses has no usable InternalIP or ExternalIP): wait for the kubelet or the cloud controller, or set the annotation %s",
				n.Name, AddressAnnotation)
		}
	case n.Name == own && len(subnets) == 0:
		e.Err = fmt.Errorf("node %q waits for its pod subnet (spec.podCIDRs is empty): kube-controller-manager gives it one if it runs with --allocate-node-cidrs and --cluster-cidr",
			n.Name)
	}
	return e
}

// chosen is the rank of a node whose address somebody chose. It gives way to a node
// whose kubelet reports the same address.
const chosen = 1

// addressesOf returns an entry with the operator's addresses, or else with those of the
// status. A mistake of the operator must not take a node off the network: then the
// node keeps the addresses that it has, or else gets those of the status. The error
// says so.
func addressesOf(n *node, current []netip.Addr) (registry.Entry, error) {
	status := statusAddresses(n)
	if strings.TrimSpace(n.override) == "" {
		return registry.Entry{Node: registry.Node{Addresses: status}}, nil
	}
	e := registry.Entry{Rank: chosen}
	addresses, err := parseOverride(n.override)
	for _, other := range [][]netip.Addr{current, status} {
		known := func(have []netip.Addr) bool { return slices.Equal(have, other) }
		if len(other) > 0 && !known(addresses) && !slices.ContainsFunc(e.Fallbacks, known) {
			e.Fallbacks = append(e.Fallbacks, other)
		}
	}
	if err != nil && len(e.Fallbacks) > 0 {
		addresses, e.Fallbacks = e.Fallbacks[0], e.Fallbacks[1:]
		err = fmt.Errorf("%w; until then it is reached at %s", err, registry.ListAddresses(addresses))
	}
	e.Node.Addresses = addresses
	return e, err
}

// statusAddresses returns, for each family, the first InternalIP of the status, or the
// first ExternalIP if there is no InternalIP. The operator has not chosen these
// addresses, so statusAddresses skips unusable ones, such as link-local addresses.
func statusAddresses(n *node) []netip.Addr {
	var found []netip.Addr
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range n.addresses {
			ip, err := netip.ParseAddr(a.Address)
			if err != nil || a.Type != kind || registry.CheckAddress(ip) != nil || hasFamily(found, ip) {
				continue
			}
			found = append(found, ip)
		}
	}
	return found
}

func hasFamily(addrs []netip.Addr, like netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return family.Of(a) == family.Of(like) })
}

// parseOverride reads the annotation. registry.Set checks the addresses.
func parseOverride(list string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for item := range strings.SplitSeq(list, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(item))
		if err != nil {
			return nil, fmt.Errorf("annotation %s is %q: expected an address such as 192.0.2.1, or one of each family such as 192.0.2.1,fd00::1",
				AddressAnnotation, shortened(list))
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// shortened keeps a long value from filling the log.
func shortened(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

func subnetsOf(n *node) ([]netip.Prefix, error) {
	var subnets []netip.Prefix
	for _, text := range n.podCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("spec.podCIDRs has %q: expected a network such as 10.244.1.0/24", shortened(text))
		}
		subnets = append(subnets, p)
	}
	return subnets, nil
}
