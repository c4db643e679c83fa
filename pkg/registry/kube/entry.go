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

// entryOf reads a Node; own is the name of this host's Node. A node that joins
// gets its addresses and subnets one after the other. entryOf excludes a node
// without an address. A missing address is an error only if the node has pod
// subnets or is this host.
func entryOf(n *node, own string) registry.Entry {
	addresses, addressErr := addressesOf(n)
	subnets, subnetErr := subnetsOf(n)
	e := registry.Entry{Node: registry.Node{Name: n.Name, Addresses: addresses, Subnets: subnets}}
	err := errors.Join(addressErr, subnetErr)
	switch {
	case err != nil:
		e.Excluded, e.Err = true, fmt.Errorf("node %q: %w", n.Name, err)
	case len(addresses) == 0:
		e.Excluded = true
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

// addressesOf returns the operator's addresses, or else addresses of the status:
// for each family the first InternalIP, or the first ExternalIP if there is no
// InternalIP. The operator has not chosen the addresses of the status, so
// addressesOf skips unusable ones, such as link-local addresses.
func addressesOf(n *node) ([]netip.Addr, error) {
	if strings.TrimSpace(n.override) != "" {
		return parseOverride(n.override)
	}
	var chosen []netip.Addr
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range n.addresses {
			ip, err := netip.ParseAddr(a.Address)
			if err != nil || a.Type != kind || registry.CheckAddress(ip) != nil || hasFamily(chosen, ip) {
				continue
			}
			chosen = append(chosen, ip)
		}
	}
	return chosen, nil
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
