package kube

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// record is what follows from one Node alone.
type record struct {
	node registry.Node
	// out: the other hosts have to do without this node.
	out bool
	// err is what somebody should mend. A node may be out without it: one that
	// joins gets its addresses and subnets one after the other.
	err error
}

func (r record) equal(o record) bool {
	return r.node.Name == o.node.Name && r.out == o.out && text(r.err) == text(o.err) &&
		slices.Equal(r.node.Addresses, o.node.Addresses) && slices.Equal(r.node.Subnets, o.node.Subnets)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// recordOf reads a Node; own is the name of this host's.
func recordOf(n *node, own string) record {
	addresses, addressErr := addressesOf(n)
	subnets, subnetErr := subnetsOf(n)
	r := record{node: registry.Node{Name: n.Name, Addresses: addresses, Subnets: subnets}}
	if err := errors.Join(addressErr, subnetErr); err != nil {
		r.out, r.err = true, fmt.Errorf("node %q: %w", n.Name, err)
		return r
	}
	if len(addresses) == 0 {
		r.out = true
		if len(subnets) > 0 || n.Name == own {
			r.err = fmt.Errorf("node %q has no address by which other hosts reach it (status.addresses has no usable InternalIP or ExternalIP): wait for the kubelet or the cloud controller, or set the annotation %s",
				n.Name, AddressAnnotation)
		}
		return r
	}
	if err := registry.Validate([]registry.Node{r.node}); err != nil {
		r.out, r.err = true, err
		return r
	}
	if n.Name == own && len(subnets) == 0 {
		r.err = fmt.Errorf("node %q waits for its pod subnet (spec.podCIDRs is empty): kube-controller-manager gives it one if it runs with --allocate-node-cidrs and --cluster-cidr",
			n.Name)
	}
	return r
}

// addressesOf gives the operator's addresses, or those of the status: for each
// family the first InternalIP, and the first ExternalIP where there is none.
// Those of the status are not the operator's doing, so one that can't be used,
// such as a link-local one, is passed over.
func addressesOf(n *node) ([]netip.Addr, error) {
	if strings.TrimSpace(n.override) != "" {
		return parseOverride(n.override)
	}
	var chosen []netip.Addr
	for _, kind := range []string{"InternalIP", "ExternalIP"} {
		for _, a := range n.addresses {
			ip, err := netip.ParseAddr(a.text)
			if err != nil || a.kind != kind || registry.CheckAddress(ip) != nil || hasFamily(chosen, ip) {
				continue
			}
			chosen = append(chosen, ip)
		}
	}
	return chosen, nil
}

func hasFamily(addrs []netip.Addr, like netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == like.Is4() })
}

// parseOverride reads the annotation. What is wrong with the addresses
// themselves is for registry.Validate to say.
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

// shortened keeps what somebody else wrote from filling the log.
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
