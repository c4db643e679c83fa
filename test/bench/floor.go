package main

import (
	"net/netip"
	"os"

	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

const (
	bridgeName = "cni0"
	linkMTU    = 1500
	podIfName  = "eth0"
)

// floor is the kernel's work alone. This process, which runs already, sends what
// overlay-cni sends for a pod, in as few messages. It starts no process, reads no
// configuration, reserves no address, and records nothing.
type floor struct {
	kernels chan *bridge.Kernel // one for each thread
	bridge  int                 // interface index
	ports   map[string]veth.Port
}

// newFloor makes the bridge.
func newFloor(h *host, threads int) (*floor, error) {
	f := &floor{kernels: make(chan *bridge.Kernel, threads), ports: map[string]veth.Port{}}
	gateway := netip.MustParsePrefix("10.1.0.1/16")
	err := h.do(func() error {
		for range threads {
			k, err := bridge.Open()
			if err != nil {
				return err
			}
			f.kernels <- k
			if f.bridge, err = k.Add(bridge.Spec{Name: bridgeName, MTU: linkMTU, Gateways: []netip.Prefix{gateway}}); err != nil {
				return err
			}
		}
		return nil
	})
	addr := gateway.Addr()
	for _, p := range h.pods {
		addr = addr.Next()
		f.ports[p.id] = veth.Port{
			HostName: "veth-" + addr.String(), IfName: podIfName, Alias: p.id, MTU: linkMTU,
			HostMAC: subnet.MAC("host " + addr.String()), MAC: subnet.MAC("pod " + addr.String()),
			Addresses: []veth.Address{{Addr: addr, Gateway: gateway.Addr()}},
			Routes:    []veth.Route{{Dst: veth.AllAddresses(addr), Via: gateway.Addr()}},
		}
	}
	return f, err
}

// Add connects a pod. The bridge is complete, so Add passes no gateways for it.
func (f *floor) Add(p *pod) error {
	k := <-f.kernels
	defer func() { f.kernels <- k }()
	netns, err := os.Open(p.netns)
	if err != nil {
		return err
	}
	defer netns.Close()
	_, err = veth.On(k).Add(netns, f.bridge, bridge.Spec{Name: bridgeName, MTU: linkMTU}, f.ports[p.id])
	return err
}

// Del deletes the pod's link.
func (f *floor) Del(p *pod) error {
	k := <-f.kernels
	defer func() { f.kernels <- k }()
	return k.Remove(f.ports[p.id].HostName)
}
