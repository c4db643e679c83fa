package veth

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// Inspect compares a port of a bridge with the kernel, for CHECK. It returns what
// differs, a phrase each.
func (k *Kernel) Inspect(netns *os.File, bridge string, p Port) ([]string, error) {
	diffs, err := k.inspectHost(bridge, p)
	if err != nil {
		return nil, err
	}
	conn, err := k.conn.OpenIn(netns, func() error {
		diffs = append(diffs, p.sysctlDiffs()...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	pod, err := inspectPod(conn, p)
	return append(diffs, pod...), err
}

// sysctlDiffs tells of the sysctl without which the pod has no IPv6. Plugins behind
// this one may set the others that ADD sets. It runs in the pod's namespace.
func (p Port) sysctlDiffs() []string {
	ipv6 := slices.ContainsFunc(p.Addresses, func(a Address) bool { return a.Addr.Is6() })
	off := sysctl.IPv6(p.IfName, sysctl.DisableIPv6, "1")
	if v, err := sysctl.Get(off.Path); ipv6 && err == nil && v == off.Value {
		return []string{fmt.Sprintf("the pod has the sysctl %s", off)}
	}
	return nil
}

func (k *Kernel) inspectHost(bridgeName string, p Port) ([]string, error) {
	port, err := k.conn.Port(p.HostName)
	link := port.Link
	if errors.Is(err, unix.ENODEV) {
		return []string{fmt.Sprintf("the host's end %s is gone", p.HostName)}, nil
	}
	if err != nil {
		return nil, err
	}
	bridge, err := k.conn.Link(bridgeName)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return nil, err
	}
	var diffs []string
	if err != nil || link.Master != bridge.Index {
		diffs = append(diffs, fmt.Sprintf("the host's end %s is not a port of %s", p.HostName, bridgeName))
	}
	if !link.Up() {
		diffs = append(diffs, fmt.Sprintf("the host's end %s is down", p.HostName))
	}
	if bridge.Index == 0 {
		return diffs, nil
	}
	if link.Master == bridge.Index {
		for _, a := range altered(port) {
			diffs = append(diffs, fmt.Sprintf("the host's end %s has %s altered (bridge -d link show dev %s)", p.HostName, a.Name, p.HostName))
		}
	}
	if p.MTU != 0 && link.MTU < p.MTU {
		diffs = append(diffs, fmt.Sprintf("the host's end %s has MTU %d, less than the pod's %d", p.HostName, link.MTU, p.MTU))
	}
	ways, err := k.inspectWays(bridge, p)
	return append(diffs, ways...), err
}

// inspectWays looks whether the host sends to the pod's addresses by the bridge, and
// whether the bridge has the pod's gateways.
func (k *Kernel) inspectWays(bridge rtnl.Link, p Port) ([]string, error) {
	var has []netip.Prefix
	if err := k.conn.EachAddr(bridge.Index, func(a rtnl.AddrEntry) { has = append(has, a.Prefix) }); err != nil {
		return nil, err
	}
	var diffs []string
	for _, a := range p.Addresses {
		if a.Gateway.IsValid() && !slices.ContainsFunc(has, func(h netip.Prefix) bool { return h.Addr() == a.Gateway }) {
			diffs = append(diffs, fmt.Sprintf("the pod's gateway %s is not on %s, which has %v: the node's pod subnet has changed, so delete the pod to give it an address of the new one",
				a.Gateway, bridge.Name, has))
			continue
		}
		route, err := k.conn.RouteTo(a.Addr)
		if err == nil && route.Type == unix.RTN_UNICAST && route.Index == bridge.Index && !route.Via.IsValid() {
			continue
		}
		diffs = append(diffs, fmt.Sprintf("the host does not send to %s by %s: see \"ip route get %s\", and /readyz of overlayd", a.Addr, bridge.Name, a.Addr))
	}
	return diffs, nil
}

func inspectPod(conn *rtnl.Conn, p Port) ([]string, error) {
	link, err := conn.Link(p.IfName)
	if errors.Is(err, unix.ENODEV) {
		return []string{fmt.Sprintf("the pod has no interface %s", p.IfName)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("in the pod: %w", err)
	}
	var addrs []netip.Addr
	err = conn.EachAddr(link.Index, func(a rtnl.AddrEntry) { addrs = append(addrs, a.Prefix.Addr()) })
	routes := map[Route]bool{}
	for _, f := range family.All() {
		// In any table: the plugin sbr moves the pod's routes to one of their own.
		err = errors.Join(err, conn.EachRoute(f, link.Index, func(r rtnl.RouteEntry) { routes[Route{r.Dst, r.Via}] = true }))
	}
	if err != nil {
		return nil, fmt.Errorf("in the pod: %w", err)
	}
	return slices.Concat(p.linkDiffs(link), p.addressDiffs(addrs), p.routeDiffs(routes)), nil
}

func (p Port) linkDiffs(link rtnl.Link) []string {
	var diffs []string
	if !link.Up() {
		diffs = append(diffs, fmt.Sprintf("%s is down", p.IfName))
	}
	if !link.ResolvesNeighbors() {
		diffs = append(diffs, fmt.Sprintf("%s has ARP or multicast turned off", p.IfName))
	}
	if link.MAC.String() != p.MAC.String() {
		diffs = append(diffs, fmt.Sprintf("%s has MAC address %s, not %s", p.IfName, link.MAC, p.MAC))
	}
	if p.MTU != 0 && link.MTU != p.MTU {
		diffs = append(diffs, fmt.Sprintf("%s has MTU %d, not %d", p.IfName, link.MTU, p.MTU))
	}
	return diffs
}

func (p Port) addressDiffs(have []netip.Addr) []string {
	var diffs []string
	for _, a := range p.Addresses {
		if !slices.Contains(have, a.Addr) {
			diffs = append(diffs, fmt.Sprintf("%s lacks address %s", p.IfName, a.Addr))
		}
	}
	return diffs
}

func (p Port) routeDiffs(have map[Route]bool) []string {
	var diffs []string
	for _, r := range p.Routes {
		if !have[r] {
			diffs = append(diffs, fmt.Sprintf("%s lacks the route to %s via %s", p.IfName, r.Dst, r.Via))
		}
	}
	return diffs
}
