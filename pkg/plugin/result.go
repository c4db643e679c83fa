package plugin

import (
	"encoding/json"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/pkg/subnet"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// newPort returns the pod's connection. MAC addresses are derived from the first
// IP address, for two reasons: udev on the host does not change a MAC address
// that was set explicitly, and if a later pod gets the IP address, ARP entries
// for the earlier one stay valid.
func (c *call) newPort(n settings, req request, addrs []netip.Addr) veth.Port {
	p := veth.Port{
		HostName: c.key.HostName(), IfName: c.ifName, Alias: alias(req.pod, c.containerID),
		MTU:     n.bridge.MTU,
		MAC:     req.mac,
		HostMAC: subnet.MAC("host " + addrs[0].String()),
	}
	if p.MAC == nil {
		p.MAC = subnet.MAC("pod " + addrs[0].String())
	}
	for i, a := range addrs {
		gateway := n.gateway(i, a)
		p.Addresses = append(p.Addresses, veth.Address{Addr: a, Gateway: gateway})
		if dst := veth.AllAddresses(a); !hasRoute(n.routes, dst) {
			p.Routes = append(p.Routes, veth.Route{Dst: dst, Via: gateway})
		}
	}
	p.Routes = append(p.Routes, n.routes...)
	return p
}

// maxAlias is how long an interface's alias can be (IFALIASZ in linux/if.h,
// less the terminating zero).
const maxAlias = 255

// alias is what an operator sees beside the port's name: the pod, or the
// container if the runtime didn't name the pod.
func alias(pod, containerID string) string {
	text := pod
	if text == "" {
		text = containerID
	}
	return text[:min(len(text), maxAlias)]
}

// gateway returns the gateway of the range that contains an address.
func (n settings) gateway(set int, a netip.Addr) netip.Addr {
	r, _ := n.sets[set].Find(a)
	return r.Gateway
}

// interfaces are those that the plugin adds to a result: the bridge, the host's
// end of the veth pair, and last the pod's end.
func interfaces(n settings, p veth.Port, netns string) []types100.Interface {
	return []types100.Interface{
		{Name: n.bridge.Name, Mac: n.bridge.Want().MAC.String(), Mtu: n.bridge.MTU},
		{Name: p.HostName, Mac: p.HostMAC.String(), Mtu: p.MTU},
		{Name: p.IfName, Mac: p.MAC.String(), Mtu: p.MTU, Sandbox: netns},
	}
}

// result returns what ADD prints, in the version that the configuration asks for:
// the result of the plugins before this one in the list, if there are any,
// followed by the plugin's own interfaces, address and routes. DNS settings of
// an earlier plugin win.
func (c *conf) result(n settings, p veth.Port, netns string) (types.Result, error) {
	all, err := c.resultBefore()
	if err != nil {
		return nil, err
	}
	for _, link := range interfaces(n, p, netns) {
		all.Interfaces = append(all.Interfaces, &link)
	}
	podInterface := len(all.Interfaces) - 1
	for _, a := range p.Addresses {
		all.IPs = append(all.IPs, &types100.IPConfig{
			Interface: types100.Int(podInterface),
			Address:   ipNet(subnet.Host(a.Addr)),
			Gateway:   a.Gateway.AsSlice(),
		})
	}
	for _, route := range p.Routes {
		all.Routes = append(all.Routes, &types.Route{Dst: ipNet(route.Dst), GW: route.Via.AsSlice()})
	}
	return all.GetAsVersion(c.CNIVersion)
}

// resultBefore is the result to which ADD appends its own. The error is a CNI
// error: prevResult or dns can't be read.
func (c *conf) resultBefore() (*types100.Result, error) {
	before := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	if len(c.PrevResult) > 0 {
		var err error
		if before, err = c.prevResult(); err != nil {
			return nil, err
		}
	}
	var dns types.DNS
	if len(c.DNS) > 0 {
		if err := json.Unmarshal(c.DNS, &dns); err != nil {
			return nil, invalid("dns can't be read: %s", err)
		}
	}
	if before.DNS.IsEmpty() {
		before.DNS = dns
	}
	return before, nil
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
