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
)

// Inspect compares a port of a bridge with the kernel, for CHECK. It returns what
// differs, a phrase each.
func (k *Kernel) Inspect(netns *os.File, bridge string, p Port) ([]string, error) {
	diffs, err := k.inspectHost(bridge, p)
	if err != nil {
		return nil, err
	}
	conn, err := k.conn.OpenIn(netns, func() error { return nil })
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	pod, err := inspectPod(conn, p)
	return append(diffs, pod...), err
}

func (k *Kernel) inspectHost(bridgeName string, p Port) ([]string, error) {
	link, err := k.conn.Link(p.HostName)
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
