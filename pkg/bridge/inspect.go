package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Inspect compares a port with the kernel and returns what differs, a phrase
// each, empty if nothing does.
func (k *Kernel) Inspect(ns *os.File, s Spec, p Port) ([]string, error) {
	diffs, err := k.inspectHost(s, p)
	if err != nil {
		return nil, err
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(int(ns.Fd())), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", ns.Name(), err)
	}
	defer h.Close()
	pod, err := inspectPod(h, p)
	return append(diffs, pod...), err
}

func (k *Kernel) inspectHost(s Spec, p Port) ([]string, error) {
	_, have, err := k.read(s.Want())
	if err != nil {
		return nil, err
	}
	if have == nil {
		return []string{fmt.Sprintf("bridge %s is gone", s.Name)}, nil
	}
	var diffs []string
	for _, o := range additions(plan(s.Want(), have), *have) {
		diffs = append(diffs, fmt.Sprintf("bridge %s needs: %s", s.Name, o))
	}
	link, err := k.conn.Link(p.HostName)
	if errors.Is(err, unix.ENODEV) {
		return append(diffs, fmt.Sprintf("the host's end %s is gone", p.HostName)), nil
	}
	if err != nil {
		return nil, err
	}
	bridge, err := k.conn.Link(s.Name)
	if err != nil {
		return nil, err
	}
	if link.Master != bridge.Index {
		diffs = append(diffs, fmt.Sprintf("the host's end %s is not a port of %s", p.HostName, s.Name))
	}
	if !link.Up() {
		diffs = append(diffs, fmt.Sprintf("the host's end %s is down", p.HostName))
	}
	return diffs, nil
}

func inspectPod(h *netlink.Handle, p Port) ([]string, error) {
	link, err := h.LinkByName(p.IfName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return []string{fmt.Sprintf("the pod has no interface %s", p.IfName)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s in the pod: %w", p.IfName, err)
	}
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s in the pod: %w", p.IfName, err)
	}
	routes, err := retryDump(func() ([]netlink.Route, error) { return h.RouteList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes of %s in the pod: %w", p.IfName, err)
	}
	return slices.Concat(linkDiffs(link.Attrs(), p), addressDiffs(addrs, p), routeDiffs(routes, p)), nil
}

func linkDiffs(a *netlink.LinkAttrs, p Port) []string {
	var diffs []string
	if a.RawFlags&unix.IFF_UP == 0 {
		diffs = append(diffs, fmt.Sprintf("%s is down", p.IfName))
	}
	if a.HardwareAddr.String() != p.MAC.String() {
		diffs = append(diffs, fmt.Sprintf("%s has MAC address %s, not %s", p.IfName, a.HardwareAddr, p.MAC))
	}
	if p.MTU != 0 && a.MTU != p.MTU {
		diffs = append(diffs, fmt.Sprintf("%s has MTU %d, not %d", p.IfName, a.MTU, p.MTU))
	}
	return diffs
}

func addressDiffs(addrs []netlink.Addr, p Port) []string {
	var have []netip.Addr
	for _, a := range addrs {
		if prefix, ok := prefixOf(a); ok {
			have = append(have, prefix.Addr())
		}
	}
	var diffs []string
	for _, a := range p.Addresses {
		if !slices.Contains(have, a.Addr) {
			diffs = append(diffs, fmt.Sprintf("%s lacks address %s", p.IfName, a.Addr))
		}
	}
	return diffs
}

func routeDiffs(routes []netlink.Route, p Port) []string {
	have := map[Route]bool{}
	for _, r := range routes {
		via, _ := netip.AddrFromSlice(r.Gw)
		dst := AllAddresses(via.Unmap()) // nil: the default route
		if r.Dst != nil {
			ip, _ := netip.AddrFromSlice(r.Dst.IP)
			bits, _ := r.Dst.Mask.Size()
			dst = netip.PrefixFrom(ip.Unmap(), bits)
		}
		have[Route{dst, via.Unmap()}] = true
	}
	var diffs []string
	for _, r := range p.Routes {
		if !have[r] {
			diffs = append(diffs, fmt.Sprintf("%s lacks the route to %s by %s", p.IfName, r.Dst, r.Via))
		}
	}
	return diffs
}

// AllAddresses is the destination of a default route.
func AllAddresses(like netip.Addr) netip.Prefix {
	if like.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
