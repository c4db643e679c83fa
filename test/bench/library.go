package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/overlay-cni/overlay-cni/internal/sysctl"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// library asks the kernel for what floor asks for, by this process too, but as
// most programs do: by a netlink library, with a call for each thing. Floor is
// the plugin's own code, and gets faster with it; this doesn't. It leaves out
// that a port gets no broadcasts, which the library can't say.
type library struct {
	host   chan *netlink.Handle // one for each thread
	bridge int                  // interface index
	ports  map[string]veth.Port
}

// newLibrary takes over the bridge and the ports of a floor.
func newLibrary(h *host, f *floor, threads int) (*library, error) {
	l := &library{host: make(chan *netlink.Handle, threads), bridge: f.bridge, ports: f.ports}
	return l, h.do(func() error {
		for range threads {
			handle, err := netlink.NewHandle()
			if err != nil {
				return err
			}
			l.host <- handle
		}
		return nil
	})
}

// Add connects a pod.
func (l *library) Add(p *pod) error {
	host := <-l.host
	defer func() { l.host <- host }()
	target, err := netns.GetFromPath(p.netns)
	if err != nil {
		return err
	}
	defer target.Close()
	port := l.ports[p.id]
	if err := l.addPair(host, target, port); err != nil {
		return fmt.Errorf("the host's end: %w", err)
	}
	inPod, err := visit(target, port.IfName)
	if err != nil {
		return err
	}
	defer inPod.Close()
	if err := configure(inPod, port); err != nil {
		return fmt.Errorf("the pod's end: %w", err)
	}
	return nil
}

func (l *library) addPair(host *netlink.Handle, target netns.NsHandle, p veth.Port) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.MasterIndex = p.HostName, p.MTU, p.HostMAC, l.bridge
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	err := host.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: p.IfName, PeerHardwareAddr: p.MAC, PeerMTU: uint32(p.MTU),
		PeerNumTxQueues: 1, PeerNumRxQueues: 1, PeerNamespace: netlink.NsFd(target),
	})
	if err != nil {
		return err
	}
	link, err := host.LinkByName(p.HostName)
	if err != nil {
		return err
	}
	const noAddress = 1 // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
	return errors.Join(
		host.LinkSetAlias(link, p.Alias),
		host.LinkSetIsolated(link, true),
		host.LinkSetIP6AddrGenMode(link, noAddress),
		host.LinkSetUp(link),
	)
}

// visit opens a handle in a pod's namespace, on a thread of the host's, to which
// it comes back.
func visit(target netns.NsHandle, ifName string) (*netlink.Handle, error) {
	home, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer home.Close()
	if err := netns.Set(target); err != nil {
		return nil, err
	}
	_, err = sysctl.Sync([]sysctl.Parameter{{Path: "net/ipv6/conf/" + ifName + "/accept_ra", Value: "0"}})
	var handle *netlink.Handle
	if err == nil {
		handle, err = netlink.NewHandle()
	}
	return handle, errors.Join(err, netns.Set(home))
}

func configure(pod *netlink.Handle, p veth.Port) error {
	link, err := pod.LinkByName(p.IfName)
	if err != nil {
		return err
	}
	if err := pod.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range p.Addresses {
		if err := pod.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a.Addr, a.Addr.BitLen()))}); err != nil {
			return err
		}
	}
	for _, r := range p.Routes {
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(r.Dst), Gw: r.Via.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
		}
		if err := pod.RouteAdd(route); err != nil {
			return err
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Del deletes the pod's link.
func (l *library) Del(p *pod) error {
	host := <-l.host
	defer func() { l.host <- host }()
	link, err := host.LinkByName(l.ports[p.id].HostName)
	if err != nil {
		return err
	}
	return host.LinkDel(link)
}
