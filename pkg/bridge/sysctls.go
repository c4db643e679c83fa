package bridge

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// sysctls are the bridge's own. Without accept_ra=0 anyone who can send a router
// advertisement to the bridge, which is any pod, would give the host addresses
// and a default route, even if pods have IPv4 only. disable_ipv6=0 is for hosts
// that disable IPv6 on all new interfaces.
func (s Spec) sysctls() []sysctl.Parameter {
	want := []sysctl.Parameter{sysctl.IPv6(s.Name, sysctl.AcceptRA, "0")}
	if slices.ContainsFunc(s.Gateways, func(g netip.Prefix) bool { return g.Addr().Is6() }) {
		want = append(want, sysctl.IPv6(s.Name, sysctl.DisableIPv6, "0"))
	}
	return want
}

// announcing are the sysctls with which the kernel tells pods of the bridge's new MAC
// address (inetdev_event in net/ipv4/devinet.c, ndisc_netdev_event in
// net/ipv6/ndisc.c). Otherwise pods send to the old one for half a minute.
func announcing(bridge string) []sysctl.Parameter {
	return []sysctl.Parameter{
		{Path: "net/ipv4/conf/" + bridge + "/arp_notify", Value: "1"},
		sysctl.IPv6(bridge, "ndisc_notify", "1"),
	}
}

// readSysctls returns the values that the sysctls have. Sysctls that the kernel
// doesn't have are left out.
func readSysctls(want []sysctl.Parameter) []sysctl.Parameter {
	var have []sysctl.Parameter
	for _, p := range want {
		if v, err := sysctl.Get(p.Path); err == nil {
			have = append(have, sysctl.Parameter{Path: p.Path, Value: v})
		}
	}
	return have
}

// planSysctls leaves out sysctls that the kernel doesn't have.
func planSysctls(want, have Bridge) []op {
	var ops []op
	for _, w := range want.Sysctls {
		other := func(h sysctl.Parameter) bool { return h.Path == w.Path && h.Value != w.Value }
		if slices.ContainsFunc(have.Sysctls, other) {
			ops = append(ops, op{verb: setSysctl, bridge: want.Name, param: w})
		}
	}
	return ops
}

// keepRouters keeps the addresses and default routes that the host has from IPv6
// routers. Forwarding makes the host a router, which drops the default routes of
// other routers and ignores their advertisements, except on interfaces whose
// accept_ra is 2. So keepRouters sets 2 where the host accepts advertisements
// now. It doesn't touch other interfaces, nor the default for new ones: those
// would accept advertisements of containers.
func (k *Kernel) keepRouters() error {
	var accepting []sysctl.Parameter
	err := k.conn.EachLink("", func(l rtnl.LinkEntry) {
		if acceptsRouters(l.Attrs()) {
			accepting = append(accepting, sysctl.IPv6(l.Attrs().Name, sysctl.AcceptRA, "2"))
		}
	})
	if err != nil {
		return fmt.Errorf("list the interfaces that accept router advertisements: %w", err)
	}
	return sysctl.SyncKnown(accepting)
}

// acceptsRouters tells whether an interface accepts router advertisements until
// the host becomes a router. A port of a bridge and a loopback receive none.
func acceptsRouters(l *netlink.LinkAttrs) bool {
	if l.MasterIndex != 0 || l.Flags&net.FlagLoopback != 0 {
		return false
	}
	accepts, err := sysctl.Get(sysctl.IPv6(l.Name, sysctl.AcceptRA, "").Path)
	if err != nil || accepts != "1" {
		return false
	}
	forwards, err := sysctl.Get(sysctl.IPv6(l.Name, "forwarding", "").Path)
	return err == nil && forwards == "0"
}
