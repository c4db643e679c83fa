package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
)

func damages() []damage { return damagesIn(modes[2]) }

// damagesIn are those of a mode: what is done to an entry of one family needs
// that family.
func damagesIn(m mode) []damage {
	return slices.Concat(tunnelDamages(), entryDamages(m), podDamages())
}

// families returns the mode's address families, as the kernel's numbers.
func (m mode) families() map[int]string {
	all := map[int]string{}
	if m.hasIPv4() {
		all[netlink.FAMILY_V4] = "IPv4"
	}
	if m.hasIPv6() {
		all[netlink.FAMILY_V6] = "IPv6"
	}
	return all
}

func tunnelDamages() []damage {
	return []damage{
		{"the tunnel is deleted", onLink(tunnel, (*netlink.Handle).LinkDel)},
		{"the tunnel is made anew with another VNI", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			other := *l.(*netlink.Vxlan)
			other.VxlanId, other.Index = 99, 0
			err := h.LinkDel(l)
			for err == nil || errors.Is(err, unix.EEXIST) { // the daemon was faster
				if err = h.LinkAdd(&other); err == nil {
					break
				}
				err = errors.Join(onLink(tunnel, (*netlink.Handle).LinkDel)(h))
			}
			return err
		})},
		{"the tunnel is set down", onLink(tunnel, (*netlink.Handle).LinkSetDown)},
		{"the tunnel is renamed", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(h.LinkSetDown(l), h.LinkSetName(l, "renamed"))
		})},
		{"the tunnel has another MTU", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1280) })},
		{"the tunnel has another MAC address", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			return h.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		})},
		{"the tunnel has no addresses", onLink(tunnel, deleteAddresses)},
		{"the tunnel has one address more", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			return h.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(32, 32)}})
		})},
	}
}

// entryDamages change routes, neighbours and FDB entries on the tunnel: one or all.
func entryDamages(m mode) []damage {
	first := func(h *netlink.Handle, l netlink.Link, family int, change func(n *netlink.Neigh) error) error {
		neighs, err := h.NeighList(l.Attrs().Index, family)
		if err != nil {
			return err
		}
		for _, n := range neighs {
			if n.IP.IsMulticast() || n.State&netlink.NUD_PERMANENT == 0 {
				continue
			}
			if family == unix.AF_BRIDGE {
				n.Flags |= netlink.NTF_SELF
			}
			return change(&n)
		}
		return fmt.Errorf("there is none of family %d", family)
	}
	all := []damage{
		{"the routes are deleted", onLink(tunnel, deleteRoutes)},
		{"the neighbours are deleted", onLink(tunnel, deleteNeighbors(netlink.FAMILY_V4, netlink.FAMILY_V6))},
		{"the FDB entries are deleted", onLink(tunnel, deleteNeighbors(unix.AF_BRIDGE))},
		{"all is flushed", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(deleteRoutes(h, l), deleteAddresses(h, l),
				deleteNeighbors(netlink.FAMILY_V4, netlink.FAMILY_V6, unix.AF_BRIDGE)(h, l))
		})},
		{"a route is added", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			return h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(192, 0, 2, 0), Mask: net.CIDRMask(24, 32)}})
		})},
		{"a neighbour is added", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			return h.NeighAdd(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.IPv4(192, 0, 2, 1), HardwareAddr: strangeMAC(), State: netlink.NUD_PERMANENT})
		})},
		{"a FDB entry is added", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			return h.NeighAdd(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: m.stranger(),
				HardwareAddr: strangeMAC(), State: netlink.NUD_PERMANENT,
			})
		})},
	}
	kinds := map[int]string{unix.AF_BRIDGE: "FDB entry"}
	for family, name := range m.families() {
		kinds[family] = name + " neighbour"
	}
	for family, name := range kinds {
		all = append(all,
			damage{"one " + name + " is deleted", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
				return first(h, l, family, h.NeighDel)
			})},
			damage{"one " + name + " is altered", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
				return first(h, l, family, func(n *netlink.Neigh) error {
					if family == unix.AF_BRIDGE {
						// In one step: between two the daemon may have mended the first.
						return h.NeighSet(&netlink.Neigh{
							LinkIndex: n.LinkIndex, Family: n.Family, Flags: n.Flags, State: n.State, HardwareAddr: n.HardwareAddr, IP: m.stranger(),
						})
					}
					n.HardwareAddr = strangeMAC()
					return h.NeighSet(n)
				})
			})})
	}
	for family, name := range m.families() {
		all = append(all,
			damage{"one " + name + " route is deleted", onRoute(family, (*netlink.Handle).RouteDel)},
			damage{"one " + name + " route leads elsewhere", onRoute(family, func(h *netlink.Handle, r *netlink.Route) error {
				r.Gw = slices.Clone(r.Gw)
				r.Gw[len(r.Gw)-1] += 9
				return h.RouteReplace(r)
			})})
	}
	return all
}

// stranger is an address of the tunnel's family that no host has.
func (m mode) stranger() net.IP {
	if m.hasIPv4() {
		return net.IPv4(192, 0, 2, 1)
	}
	return net.ParseIP("2001:db8::bad")
}

func strangeMAC() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, 9} }

// onRoute changes one of the routes to peers.
func onRoute(family int, do func(*netlink.Handle, *netlink.Route) error) func(*netlink.Handle) error {
	return onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
		routes, err := h.RouteList(l, family)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Gw != nil {
				return do(h, &r)
			}
		}
		return fmt.Errorf("there is no route to a peer")
	})
}

// podDamages change the bridge and pods' ports.
func podDamages() []damage {
	return []damage{
		{"the bridge's addresses are deleted", onLink("cni0", deleteAddresses)},
		{"the bridge is set down", onLink("cni0", (*netlink.Handle).LinkSetDown)},
		{"the bridge has another MAC address", onLink("cni0", func(h *netlink.Handle, l netlink.Link) error {
			return h.LinkSetHardwareAddr(l, strangeMAC())
		})},
		{"the bridge is deleted", onLink("cni0", (*netlink.Handle).LinkDel)},
		{"a pod's port is unplugged", onPort((*netlink.Handle).LinkSetNoMaster)},
		{"a pod's port is set down", onPort((*netlink.Handle).LinkSetDown)},
		{"a pod's port is plugged into another bridge", onPort(func(h *netlink.Handle, l netlink.Link) error {
			other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other"}}
			return errors.Join(h.LinkAdd(other), h.LinkSetMaster(l, other), h.LinkDel(other))
		})},
		{"a pod's port has a smaller MTU", onPort(func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1300) })},
		{"a pod's port learns and floods nothing", onPort(func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(h.LinkSetLearning(l, false), h.LinkSetFlood(l, false))
		})},
		{"a pod's port has another mode", onPort(func(h *netlink.Handle, l netlink.Link) error {
			p, err := h.LinkGetProtinfo(l)
			return errors.Join(err, h.LinkSetIsolated(l, !p.Isolated), h.LinkSetHairpin(l, !p.Hairpin))
		})},
	}
}

// errNext says that the change does not fit this entry: try the next one.
var errNext = errors.New("not this one")

// onPort changes the port of one of the pods.
func onPort(do func(*netlink.Handle, netlink.Link) error) func(*netlink.Handle) error {
	return func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if !strings.HasPrefix(l.Attrs().Name, "veth") {
				continue
			}
			if err := do(h, l); !errors.Is(err, errNext) {
				return err
			}
		}
		return errors.New("no pod has such a port")
	}
}

// ruleDamages are done to the firewall, by nft.
func ruleDamages() map[string]string {
	const table = "inet overlay-cni"
	return map[string]string{
		"our table is deleted":              "delete table " + table,
		"our table is flushed":              "flush table " + table,
		"all rules of the host are deleted": "flush ruleset",
		"our rules are deleted":             "flush chain " + table + " postrouting",
		"a rule is put before ours":         "insert rule " + table + " postrouting accept",
		"our subnets are forgotten":         "flush set " + table + " own4; flush set " + table + " own6",
	}
}

// nft has the program of that name do something on a host, and returns what it
// prints.
func nft(h *lab.Host, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.Command("nft", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.Netns().Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", cmd, err, &out)
	}
	return out.String(), nil
}

// nft is the same for a host that can be trusted to do it.
func (f *fleet) nft(h *lab.Host, args ...string) string {
	f.t.Helper()
	out, err := nft(h, args...)
	f.must(err)
	return out
}
