package main

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// This file is a network made by hand, as `ip` and `bridge` would: nothing here is
// overlay-cni's own code.

const (
	bridgeName = "cni0"
	podIfName  = "eth0"
	vni        = 1
)

// tunnel is a VXLAN device made by hand.
type tunnel struct {
	name string
	port int
}

// connect lays the cable between the two hosts.
func (s *stage) connect() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = linkName, linkMTU
	err := s.hosts[0].Handle().LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: linkName, PeerMTU: linkMTU, PeerNamespace: netlink.NsFd(s.hosts[1].Netns().FD()),
	})
	if err != nil {
		return fmt.Errorf("join the hosts: %w", err)
	}
	for i, h := range s.hosts {
		if err := up(h.Handle(), linkName, netip.PrefixFrom(s.address(i), s.link.Bits())); err != nil {
			return err
		}
	}
	return nil
}

// up sets an interface up and gives it addresses that can be used at once.
func up(h *netlink.Handle, name string, addresses ...netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(link)
	}
	for _, a := range addresses {
		if err == nil {
			err = h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD})
		}
	}
	if err != nil {
		return fmt.Errorf("set %s up with %v: %w", name, addresses, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// route makes a host a router, with a bridge for its pods and the tunnel to the other
// host.
func (s *stage) route(host int, t tunnel) error {
	h, own := s.hosts[host], s.subnets[host]
	forwarding := "net/" + family.Of(own.Addr()).Proc() + "/conf/all/forwarding"
	err := h.Netns().Do(func() error {
		_, err := sysctl.Sync([]sysctl.Parameter{{Path: forwarding, Value: "1"}})
		return err
	})
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = bridgeName, s.mtu
	if err := h.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add %s: %w", bridgeName, err)
	}
	if err := up(h.Handle(), bridgeName, netip.PrefixFrom(subnet.Gateway(own), own.Bits())); err != nil {
		return err
	}
	return s.addTunnel(host, t)
}

// addTunnel makes the device, and leads the other host's subnet into it.
func (s *stage) addTunnel(host int, t tunnel) error {
	h, own, other := s.hosts[host].Handle(), s.subnets[host], s.subnets[1-host]
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = t.name, s.mtu, subnet.MAC(own.String())
	err := h.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: vni, Port: t.port, SrcAddr: s.address(host).AsSlice(), Learning: false,
	})
	if err == nil {
		err = up(h, t.name, subnet.Host(subnet.VTEP(own)))
	}
	if err != nil {
		return fmt.Errorf("add %s: %w", t.name, err)
	}
	device, err := h.LinkByName(t.name)
	if err != nil {
		return err
	}
	index, mac, via := device.Attrs().Index, subnet.MAC(other.String()), subnet.VTEP(other).AsSlice()
	for _, n := range []*netlink.Neigh{
		{LinkIndex: index, Family: int(family.Of(own.Addr())), State: netlink.NUD_PERMANENT, IP: via, HardwareAddr: mac},
		{LinkIndex: index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
			IP: s.address(1 - host).AsSlice(), HardwareAddr: mac},
	} {
		if err := h.NeighSet(n); err != nil {
			return fmt.Errorf("add neighbour %s of %s: %w", n.IP, t.name, err)
		}
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: index, Dst: ipNet(other), Gw: via, Flags: int(netlink.FLAG_ONLINK)})
}

// addPod makes a pod on a host's bridge, as the plugins flannel and bridge do.
func (s *stage) addPod(host int, name string, addr netip.Addr) (*sandbox.Netns, error) {
	h, own := s.hosts[host], s.subnets[host]
	ns, err := sandbox.CreateNetns(h.Netns().Name() + "-" + name)
	if err != nil {
		return nil, err
	}
	s.pods = append(s.pods, ns)
	if err := s.plug(h, ns, "veth-"+name); err != nil {
		return nil, fmt.Errorf("connect pod %s: %w", name, err)
	}
	pod, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	if err := up(pod, podIfName, netip.PrefixFrom(addr, own.Bits())); err != nil {
		return nil, err
	}
	all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if addr.Is4() {
		all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	gateway := subnet.Gateway(own).AsSlice()
	for _, dst := range []netip.Prefix{all, s.addressing.pods} {
		if err := pod.RouteAdd(&netlink.Route{Dst: ipNet(dst), Gw: gateway}); err != nil {
			return nil, fmt.Errorf("add the route to %s in pod %s: %w", dst, name, err)
		}
	}
	return ns, nil
}

// plug makes the veth pair between a host's bridge and a pod.
func (s *stage) plug(h *lab.Host, pod *sandbox.Netns, port string) error {
	bridge, err := h.Handle().LinkByName(bridgeName)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = port, s.mtu, bridge.Attrs().Index
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: podIfName, PeerMTU: uint32(s.mtu), PeerNamespace: netlink.NsFd(pod.FD())}
	if err := h.Handle().LinkAdd(pair); err != nil {
		return err
	}
	// With isDefaultGateway, bridge turns this on.
	if err := h.Handle().LinkSetHairpin(pair, true); err != nil {
		return err
	}
	return up(h.Handle(), port)
}
