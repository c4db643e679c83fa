package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

const (
	switchBridge = "switch"
	nodeDevice   = "eth0"
)

// At calls fn with netlink in the namespace of a node or of the switch.
func (c *Cluster) At(name string, fn func(*sandbox.Netns, *netlink.Handle) error) error {
	ns, err := c.Netns(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := ns.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := fn(ns, h); err != nil {
		return fmt.Errorf("the network of %s: %w", name, err)
	}
	return nil
}

func (c *Cluster) startSwitch() error {
	if err := c.startFirst(Switch, 0); err != nil {
		return err
	}
	return c.At(Switch, func(_ *sandbox.Netns, h *netlink.Handle) error {
		// Without an address of its own it takes that of a port, and another one
		// when that goes: nodes would send to the old one for seconds.
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{
			Name: switchBridge, MTU: underlayMTU, HardwareAddr: card(c.Families[0].Switch),
		}}
		if err := h.LinkAdd(bridge); err != nil {
			return err
		}
		errs := []error{up(h, "lo"), up(h, switchBridge)}
		for _, f := range c.Families {
			errs = append(errs, address(h, switchBridge, f.Switch, f.Underlay))
		}
		return errors.Join(errs...)
	})
}

// plug connects a node's new network namespace to the switch.
func (c *Cluster) plug(n Node) error {
	return c.At(Switch, func(ns *sandbox.Netns, h *netlink.Handle) error {
		port := "to-" + n.Name
		// After a reboot the old one may still be there: the kernel takes its time
		// to end a network namespace.
		if err := unplug(h, port); err != nil {
			return err
		}
		err := c.At(n.Name, func(node *sandbox.Netns, inside *netlink.Handle) error {
			pair := &netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: nodeDevice, MTU: underlayMTU, HardwareAddr: card(n.Addresses[0])},
				PeerName:  port, PeerNamespace: netlink.NsFd(ns.FD()),
			}
			if err := inside.LinkAdd(pair); err != nil {
				return err
			}
			errs := []error{up(inside, "lo"), up(inside, nodeDevice), forward(node)}
			for _, f := range c.Families {
				errs = append(errs, address(inside, nodeDevice, f.Of(n.Addresses), f.Underlay), gateway(inside, f.Switch))
			}
			return errors.Join(errs...)
		})
		if err != nil {
			return err
		}
		return errors.Join(join(h, port), up(h, port))
	})
}

// card is the MAC address of the network card that has an IP address. No reboot
// changes it: others remember it.
func card(address netip.Addr) net.HardwareAddr {
	bytes := address.AsSlice()
	const local = 0x02 // not given by a manufacturer
	return append(net.HardwareAddr{local, 0}, bytes[len(bytes)-4:]...)
}

func unplug(h *netlink.Handle, port string) error {
	link, err := h.LinkByName(port)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.LinkDel(link)
}

func up(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	return h.LinkSetUp(link)
}

func join(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	bridge, err := h.LinkByName(switchBridge)
	if err != nil {
		return err
	}
	return h.LinkSetMaster(link, bridge)
}

// address adds one that can be used at once: nobody here has it already.
func address(h *netlink.Handle, name string, a netip.Addr, within netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	ip := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(within.Bits(), a.BitLen())}
	return h.AddrAdd(link, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD})
}

// gateway adds the default route. Without one a node's own processes reach no
// Service: the route is looked up before the address is translated.
func gateway(h *netlink.Handle, to netip.Addr) error {
	link, err := h.LinkByName(nodeDevice)
	if err != nil {
		return err
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: to.AsSlice(), Protocol: unix.RTPROT_BOOT})
}

// forward makes routers of nodes, as Kubernetes' instructions want it.
func forward(ns *sandbox.Netns) error {
	return ns.Do(func() error {
		return errors.Join(setSysctl("net/ipv4/ip_forward", "1"), setSysctl("net/ipv6/conf/all/forwarding", "1"))
	})
}
