package plugin

import (
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/internal/jsontext"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// newPort is the pod's connection. MAC addresses follow from the first
// address: ones that are set are left alone by the host's udev, and a pod that
// gets the address next is reached by the ARP entries that its predecessor
// left.
func (c *call) newPort(n network, req request, addrs []netip.Addr) bridge.Port {
	p := bridge.Port{
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
		p.Addresses = append(p.Addresses, bridge.Address{Addr: a, Gateway: gateway})
		if dst := bridge.AllAddresses(a); !hasRoute(n.routes, dst) {
			p.Routes = append(p.Routes, bridge.Route{Dst: dst, Via: gateway})
		}
	}
	p.Routes = append(p.Routes, n.routes...)
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

// write writes the result of an ADD that nothing comes before in the list, in
// the version that the configuration asks for.
func (c *conf) write(out io.Writer, n network, p bridge.Port, netns string) error {
	w := jsontext.Writer{Buf: make([]byte, 0, 1024)}
	w.Open('{')
	w.Member("cniVersion", c.CNIVersion)
	c.writeInterfaces(&w, n, p, netns)
	c.writeIPs(&w, p)
	w.Key("routes")
	w.Open('[')
	for _, r := range p.Routes {
		w.Open('{')
		w.Member("dst", r.Dst.String())
		w.Member("gw", r.Via.String())
		w.Close('}')
	}
	w.Close(']')
	if len(c.DNS) > 0 {
		w.Key("dns")
		w.Raw(c.DNS)
	}
	w.Close('}')
	_, err := out.Write(append(w.Buf, '\n'))
	return err
}

// before1 tells whether the version asked for is one of those before 1.0.0,
// where an address says of which version of IP it is.
func (c *conf) before1() bool { return strings.HasPrefix(c.CNIVersion, "0.") }

func (c *conf) writeInterfaces(w *jsontext.Writer, n network, p bridge.Port, netns string) {
	w.Key("interfaces")
	w.Open('[')
	for _, link := range interfaces(n, p, netns) {
		w.Open('{')
		w.Member("name", link.Name)
		w.Member("mac", link.Mac)
		if !c.before1() && c.CNIVersion != "1.0.0" { // since 1.1.0
			w.Key("mtu")
			w.Int(link.Mtu)
		}
		w.Member("sandbox", link.Sandbox)
		w.Close('}')
	}
	w.Close(']')
}

func (c *conf) writeIPs(w *jsontext.Writer, p bridge.Port) {
	w.Key("ips")
	w.Open('[')
	for _, a := range p.Addresses {
		w.Open('{')
		if c.before1() {
			w.Member("version", map[bool]string{true: "4", false: "6"}[a.Addr.Is4()])
		}
		w.Key("interface")
		w.Int(podInterface)
		w.Member("address", subnet.Host(a.Addr).String())
		w.Member("gateway", a.Gateway.String())
		w.Close('}')
	}
	w.Close(']')
}

// interfaces are those of a result: bridge, host's end and pod's end.
func interfaces(n network, p bridge.Port, netns string) []types100.Interface {
	return []types100.Interface{
		{Name: n.bridge.Name, Mac: n.bridge.Want().MAC.String(), Mtu: n.bridge.MTU},
		{Name: p.HostName, Mac: p.HostMAC.String(), Mtu: p.MTU},
		podInterface: {Name: p.IfName, Mac: p.MAC.String(), Mtu: p.MTU, Sandbox: netns},
	}
}

// checkResult refuses what the result could not be made of, before anything is
// connected.
func (c *conf) checkResult() error {
	if len(c.DNS) > 0 {
		if err := json.Unmarshal(c.DNS, &types.DNS{}); err != nil {
			return invalid("dns can't be read: %s", err)
		}
	}
	if len(c.PrevResult) == 0 {
		return nil
	}
	_, err := c.prevResult()
	return err
}

// writeAfter adds the result to that of the plugins before this one in the
// list, whatever is in that.
func (c *conf) writeAfter(out io.Writer, n network, p bridge.Port, netns string) error {
	all, err := c.prevResult()
	if err != nil {
		return err // which was looked for before, too
	}
	before := len(all.Interfaces)
	for _, link := range interfaces(n, p, netns) {
		all.Interfaces = append(all.Interfaces, &link)
	}
	for _, a := range p.Addresses {
		all.IPs = append(all.IPs, &types100.IPConfig{
			Interface: types100.Int(before + podInterface),
			Address:   ipNet(subnet.Host(a.Addr)),
			Gateway:   a.Gateway.AsSlice(),
		})
	}
	for _, route := range p.Routes {
		all.Routes = append(all.Routes, &types.Route{Dst: ipNet(route.Dst), GW: route.Via.AsSlice()})
	}
	if all.DNS.IsEmpty() && len(c.DNS) > 0 {
		if err := json.Unmarshal(c.DNS, &all.DNS); err != nil {
			return invalid("dns can't be read: %s", err)
		}
	}
	converted, err := all.GetAsVersion(c.CNIVersion)
	if err != nil {
		return err
	}
	return converted.PrintTo(out)
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
