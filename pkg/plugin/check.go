package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/shaper"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// check compares prevResult, the record and the kernel, and reports all differences
// at once.
func (p Plugin) check(in *invocation) error {
	c, err := newCall(in)
	if err != nil {
		return err
	}
	defer c.kernel.Close()
	net, err := c.conf.settings(0)
	if err != nil {
		return err
	}
	want, err := c.expected(net.routes)
	if err != nil {
		return err
	}
	kernel := veth.On(c.kernel)
	netns, err := openNetns(kernel, c.netns)
	if err != nil {
		return err
	}
	defer netns.Close()
	diffs, err := c.checkRecord(want, net)
	if err != nil {
		return err
	}
	bridged, err := c.kernel.Inspect(net.bridge)
	if err != nil {
		return err
	}
	connected, err := kernel.Inspect(netns, net.bridge.Name, want)
	if err != nil {
		return err
	}
	limited, err := c.checkLimits()
	if err != nil {
		return err
	}
	if diffs = slices.Concat(diffs, bridged, connected, limited); len(diffs) > 0 {
		return types.NewError(CodeCheckFailed, fmt.Sprintf("container %s, interface %s: %s",
			c.containerID, c.ifName, strings.Join(diffs, "; ")), "delete the pod's sandbox to have it made anew")
	}
	return nil
}

// checkLimits compares the bandwidth limits with the kernel.
func (c *call) checkLimits() ([]string, error) {
	var runtime runtimeConfig
	if err := decodePart("runtimeConfig", c.conf.Runtime, &runtime); err != nil {
		return nil, err
	}
	limits, err := runtime.limits()
	if err != nil {
		return nil, err
	}
	return shaper.Inspect(shaper.Port{Link: c.key.HostName(), Shaper: c.key.ShaperName()}, limits)
}

// expected returns the port that prevResult describes. Of the routes in
// prevResult, it keeps those that are the plugin's own.
func (c *call) expected(configured []veth.Route) (veth.Port, error) {
	p := veth.Port{HostName: c.key.HostName(), IfName: c.ifName}
	prev, err := c.conf.prevResult()
	if err != nil {
		return p, err
	}
	own := -1
	for i, link := range prev.Interfaces {
		if link.Name == c.ifName && link.Sandbox != "" {
			own = i
			p.MTU = link.Mtu
			if p.MAC, err = net.ParseMAC(link.Mac); err != nil {
				return p, invalid("prevResult: interface %s has MAC address %q: %s", link.Name, link.Mac, err)
			}
		}
	}
	if own < 0 {
		return p, invalid("prevResult has no interface %s of a pod, so it belongs to another attachment", c.ifName)
	}
	for _, ip := range prev.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		gateway, _ := netip.AddrFromSlice(ip.Gateway)
		// An address without an interface is another plugin's.
		if ok && ip.Interface != nil && *ip.Interface == own {
			p.Addresses = append(p.Addresses, veth.Address{Addr: addr.Unmap(), Gateway: gateway.Unmap()})
		}
	}
	for _, r := range prev.Routes {
		via, _ := netip.AddrFromSlice(r.GW)
		dst, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		route := veth.Route{Dst: netip.PrefixFrom(dst.Unmap(), bits), Via: via.Unmap()}
		// Other plugins of the list may have added routes to the result.
		ours := slices.Contains(configured, route) ||
			slices.ContainsFunc(p.Addresses, func(a veth.Address) bool { return a.Gateway == route.Via })
		if ok && ours {
			p.Routes = append(p.Routes, route)
		}
	}
	return p, nil
}

func (c *conf) prevResult() (*types100.Result, error) {
	if len(c.PrevResult) == 0 {
		return nil, invalid("prevResult is missing: CHECK needs the result of ADD")
	}
	if err := wellFormed(c.PrevResult); err != nil {
		return nil, err
	}
	r, err := create.Create(c.CNIVersion, c.PrevResult)
	if err != nil {
		return nil, invalid("prevResult can't be read: %s", err)
	}
	return types100.NewResultFromResult(r)
}

// wellFormed refuses a result at which the library would panic, or that the library
// would write without an address.
func wellFormed(raw json.RawMessage) error {
	var r struct {
		Interfaces []*struct{}
		IPs        []*struct{ Address *types.IPNet }
		Routes     []*struct{ Dst *types.IPNet }
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return invalid("prevResult can't be read: %s", err)
	}
	for i, link := range r.Interfaces {
		if link == nil {
			return invalid("prevResult: interfaces[%d] is null", i)
		}
	}
	for i, ip := range r.IPs {
		if ip == nil || ip.Address == nil || ip.Address.IP == nil {
			return invalid("prevResult: ips[%d] has no address", i)
		}
	}
	for i, route := range r.Routes {
		if route == nil || route.Dst == nil || route.Dst.IP == nil {
			return invalid("prevResult: routes[%d] has no destination (dst)", i)
		}
	}
	return nil
}

// checkRecord compares the attachment's record with prevResult.
func (c *call) checkRecord(want veth.Port, n settings) ([]string, error) {
	a, err := c.store.LockExisting(c.key)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{"there is no record of the attachment in " + c.conf.RunDir}, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = a.Close() }()
	r, found, err := a.Record()
	if err == nil && !found {
		err = attachment.ErrEmpty
	}
	if err != nil {
		return []string{fmt.Sprintf("the record of the attachment can't be used: %v", err)}, nil
	}
	var diffs []string
	for _, w := range want.Addresses {
		if !r.Holds(w.Addr) {
			diffs = append(diffs, fmt.Sprintf("address %s is not the attachment's, which has %v", w.Addr, r.Addresses))
			continue
		}
		if err := a.Reserved(w.Addr); err != nil {
			diffs = append(diffs, err.Error())
		}
	}
	ports, err := c.checkPorts(r)
	if err != nil {
		return nil, err
	}
	guarded, err := c.checkGuard(r, n)
	return slices.Concat(diffs, ports, guarded), err
}
