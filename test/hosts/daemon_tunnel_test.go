package hosts

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
)

// tunnelProperty is what somebody may do to the tunnel's device. If says is empty, the
// daemon undoes it; else it stays, and /readyz says so.
type tunnelProperty struct {
	name   string
	damage func(*netlink.Handle, netlink.Link) error
	says   string
	undo   func(*netlink.Handle, netlink.Link) error // of what stays
}

func tunnelProperties() []tunnelProperty {
	const protoDown = 39 // IFLA_PROTO_DOWN, linux/if_link.h
	root := func(l netlink.Link) *netlink.PfifoFast {
		return &netlink.PfifoFast{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT}}
	}
	clsact := func(l netlink.Link) *netlink.GenericQdisc {
		return &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}
	}
	return []tunnelProperty{
		{name: "master", damage: func(h *netlink.Handle, l netlink.Link) error {
			other, err := h.LinkByName("other")
			if err != nil {
				return err
			}
			return h.LinkSetMaster(l, other)
		}},
		{name: "up", damage: (*netlink.Handle).LinkSetDown},
		{name: "ARP", damage: (*netlink.Handle).LinkSetARPOff},
		{name: "multicast", damage: (*netlink.Handle).LinkSetMulticastOff},
		{name: "protodown", damage: func(_ *netlink.Handle, l netlink.Link) error { return setLink(l, nl.NewRtAttr(protoDown, []byte{1})) }},
		{name: "MTU", damage: func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1300) }},
		{name: "MAC address", damage: func(h *netlink.Handle, l netlink.Link) error {
			return h.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		}},
		{name: "alias", damage: func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetAlias(l, "mine") }},
		{name: "addresses", damage: deleteAddresses},
		{name: "automatic IPv6 address", damage: func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetIP6AddrGenMode(l, 0) }},
		{name: "learning", damage: setVXLAN(nl.IFLA_VXLAN_LEARNING, 1)},
		{name: "TTL", damage: setVXLAN(nl.IFLA_VXLAN_TTL, 3)},
		{name: "TOS", damage: setVXLAN(nl.IFLA_VXLAN_TOS, 4)},
		{name: "name", damage: func(h *netlink.Handle, l netlink.Link) error {
			if err := h.LinkSetDown(l); err != nil {
				return err
			}
			return h.LinkSetName(l, "mine")
		}},
		// What can't harm.
		{name: "txqueuelen", damage: func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetTxQLen(l, 1) }},
		{name: "group", damage: func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetGroup(l, 7) }},
		{name: "promiscuous mode", damage: (*netlink.Handle).SetPromiscOn},
		{name: "all multicasts", damage: (*netlink.Handle).LinkSetAllmulticastOn},
		{name: "ageing", damage: setVXLAN(nl.IFLA_VXLAN_AGEING, 1, 0, 0, 0)},
		// What may be there on purpose.
		{name: "queue", says: "network: note: tunnel: overlay0 has the qdisc pfifo_fast",
			damage: func(h *netlink.Handle, l netlink.Link) error { return h.QdiscReplace(root(l)) },
			undo:   func(h *netlink.Handle, l netlink.Link) error { return h.QdiscDel(root(l)) }},
		{name: "filters", says: "network: note: tunnel: overlay0 has the qdisc clsact",
			damage: func(h *netlink.Handle, l netlink.Link) error { return h.QdiscAdd(clsact(l)) },
			undo:   func(h *netlink.Handle, l netlink.Link) error { return h.QdiscDel(clsact(l)) }},
	}
}

// setLink sets an attribute of a link, in the namespace of the calling thread.
func setLink(l netlink.Link, attr *nl.RtAttr) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	req.AddData(attr)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// setVXLAN sets an option of a VXLAN device, in the namespace of the calling thread.
func setVXLAN(option int, value ...byte) func(*netlink.Handle, netlink.Link) error {
	return func(_ *netlink.Handle, l netlink.Link) error {
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("vxlan"))
		data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
		data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(uint32(l.(*netlink.Vxlan).VxlanId)))
		data.AddRtAttr(option, value)
		return setLink(l, info)
	}
}

// tunnelSysctls are set to another value than the daemon's.
func tunnelSysctls(m mode) map[string]string {
	all := map[string]string{}
	if m.hasIPv4() {
		all["net/ipv4/conf/overlay0/forwarding"] = "0"
		all["net/ipv4/conf/overlay0/rp_filter"] = "1"
		all["net/ipv4/conf/overlay0/route_localnet"] = "1"
	}
	all["net/ipv6/conf/overlay0/accept_ra"] = "2"
	if m.hasIPv6() {
		all["net/ipv6/conf/overlay0/disable_ipv6"] = "1"
		all["net/ipv6/conf/overlay0/mtu"] = "1280"
	}
	return all
}

// Every property of the tunnel's device is kept, or can't harm, or is shown (see
// "Properties of what carries traffic" in docs/architecture.md).
func TestDaemonKeepsTheTunnelsProperties(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set, withHealth, func(c *lab.Config) { c.DaemonArgs = append(c.DaemonArgs, "--resync", "1s") })
		h := f.hosts[0]
		f.must(h.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other", Flags: net.FlagUp}}))
		f.eventuallyReady(withPatience(t), h)
		want := f.tunnelText(h)
		for _, p := range tunnelProperties() {
			t.Run(p.name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				f.on(h.Netns(), func() error { return onLink(tunnel, p.damage)(h.Handle()) })
				if p.says != "" {
					f.eventually(ctx, func(ctx context.Context) error { return says(ctx, h, "/readyz", http.StatusOK, p.says) })
					f.ping(ctx, f.pods[0], f.pods[1])
					f.must(onLink(tunnel, p.undo)(h.Handle()))
				}
				f.tunnelIs(ctx, h, want)
			})
		}
		for path, value := range tunnelSysctls(m) {
			t.Run(path, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				before := f.sysctl(h, path)
				f.setSysctl(h, path, value)
				f.eventually(ctx, func(context.Context) error {
					if v := f.sysctl(h, path); v == value {
						return fmt.Errorf("%s is %s, and was %s", path, v, before)
					}
					return nil
				})
				f.tunnelIs(ctx, h, want)
			})
		}
	})
}

// tunnelIs waits until the tunnel's device is as it was, and pods reach each other.
func (f *fleet) tunnelIs(ctx context.Context, h *lab.Host, want string) {
	f.t.Helper()
	f.eventually(ctx, func(ctx context.Context) error {
		if have := f.tunnelText(h); have != want {
			return fmt.Errorf("the tunnel is\n%s, not\n%s", have, want)
		}
		return ping(ctx, f.pods[0], f.pods[1])
	})
}

// tunnelText is the tunnel's device with everything that the daemon keeps of it.
func (f *fleet) tunnelText(h *lab.Host) string {
	l, err := h.Handle().LinkByName(tunnel)
	if err != nil {
		return err.Error()
	}
	v, a := l.(*netlink.Vxlan), l.Attrs()
	addrs, err := h.Handle().AddrList(l, netlink.FAMILY_ALL)
	var text []string
	for _, a := range addrs {
		text = append(text, a.IPNet.String())
	}
	const flags = unix.IFF_UP | unix.IFF_LOWER_UP | unix.IFF_NOARP | unix.IFF_MULTICAST
	return fmt.Sprintln(a.RawFlags&flags, a.MasterIndex, a.MTU, a.HardwareAddr, a.Alias, v.VxlanId, v.Port, v.SrcAddr,
		v.VtepDevIndex, v.Group, v.TTL, v.TOS, v.Learning, v.UDPCSum, text, err)
}
