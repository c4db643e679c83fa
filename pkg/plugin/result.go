package plugin

import (
	"io"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// newPort is the pod's connection. MAC addresses follow from the first
// address: ones that are set are left alone by the host's udev, and a pod that
// gets the address next is reached by the ARP entries that its predecessor
// left.
func (c *call) newPort(n network, req request, addrs []netip.Addr) bridge.Port {
	p := bridge.Port{
		HostName: c.key.HostName(), IfName: c.args.IfName, Alias: alias(req.pod, c.args.ContainerID),
		MTU: n.bridge.MTU, Routes: n.routes,
		MAC:     req.mac,
		HostMAC: subnet.MAC("host " + addrs[0].String()),
	}
	if p.MAC == nil {
		p.MAC = subnet.MAC("pod " + addrs[0].String())
	}
	for i, a := range addrs {
		p.Addresses = append(p.Addresses, bridge.Address{Addr: a, Gateway: n.gateway(i, a)})
	}
	return p
}

// maxAlias is how long an interface's alias can be (IFALIASZ in linux/if.h,
// less the terminating zero).
const maxAlias = 255

// alias is what an operator sees beside the port's name: the pod, or the
// container where the runtime doesn't tell the pod.
func alias(pod, containerID string) string {
	text := pod
	if text == "" {
		text = containerID
	}
	return text[:min(len(text), maxAlias)]
}

// gateway is the one of the range that an address is of.
func (n network) gateway(set int, a netip.Addr) netip.Addr {
	r, _ := n.sets[set].Find(a)
	return r.Gateway
}

// podInterface is the index of the pod's interface in a result.
const podInterface = 2

func result(n network, p bridge.Port, netns string) *types100.Result {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: n.bridge.Name, Mac: n.bridge.Want().MAC.String(), Mtu: n.bridge.MTU},
			{Name: p.HostName, Mac: p.HostMAC.String(), Mtu: p.MTU},
			{Name: p.IfName, Mac: p.MAC.String(), Mtu: p.MTU, Sandbox: netns},
		},
	}
	for _, a := range p.Addresses {
		r.IPs = append(r.IPs, &types100.IPConfig{
			Interface: types100.Int(podInterface),
			Address:   ipNet(subnet.Host(a.Addr)),
			Gateway:   a.Gateway.AsSlice(),
		})
	}
	for _, route := range p.AllRoutes() {
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(route.Dst), GW: route.Via.AsSlice()})
	}
	return r
}

// extend adds a result to that of the plugins before this one in the list, if
// there are any, and the configuration's DNS settings, if they said nothing.
func (c *conf) extend(own *types100.Result) (*types100.Result, error) {
	own.DNS = c.DNS
	if len(c.PrevResult) == 0 {
		return own, nil
	}
	all, err := c.prevResult()
	if err != nil {
		return nil, err
	}
	for _, ip := range own.IPs {
		ip.Interface = types100.Int(*ip.Interface + len(all.Interfaces))
	}
	all.Interfaces = append(all.Interfaces, own.Interfaces...)
	all.IPs = append(all.IPs, own.IPs...)
	all.Routes = append(all.Routes, own.Routes...)
	if all.DNS.IsEmpty() {
		all.DNS = c.DNS
	}
	return all, nil
}

func printResult(out io.Writer, c *conf, r *types100.Result) error {
	converted, err := r.GetAsVersion(c.CNIVersion)
	if err != nil {
		return err
	}
	return converted.PrintTo(out)
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
