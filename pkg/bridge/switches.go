package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// Switches of an interface, below net/ipv6/conf (ip-sysctl.rst of the kernel's
// documentation). What IPv4 has of the kind is the daemon's.
const (
	acceptRA    = "accept_ra"
	acceptDAD   = "accept_dad"
	disableIPv6 = "disable_ipv6"
)

func switchPath(link, name string) string { return "net/ipv6/conf/" + link + "/" + name }

// switches are those of the bridge. Whoever can send a router advertisement to
// it would else give the host addresses and a default route: any pod, also
// where pods have IPv4 alone. And IPv6 may be off for all interfaces that
// nobody asked IPv6 of.
func (s Spec) switches() []sysctl.Parameter {
	want := []sysctl.Parameter{{Path: switchPath(s.Name, acceptRA), Value: "0"}}
	if slices.ContainsFunc(s.Gateways, func(g netip.Prefix) bool { return g.Addr().Is6() }) {
		want = append(want, sysctl.Parameter{Path: switchPath(s.Name, disableIPv6), Value: "0"})
	}
	return want
}

// switches are those of the pod's end. The pod's addresses and routes are known,
// and whoever advertises others is no router of ours. Duplicates are looked for
// by nobody: addresses are given once, and the kernel's own link-local one would
// wait a second for it. Some runtimes turn IPv6 off in each namespace, not
// knowing which network a pod will get.
func (p Port) switches() []sysctl.Parameter {
	want := []sysctl.Parameter{{Path: switchPath(p.IfName, acceptRA), Value: "0"}}
	if slices.ContainsFunc(p.Addresses, func(a Address) bool { return a.Addr.Is6() }) {
		want = append(want,
			sysctl.Parameter{Path: switchPath(p.IfName, acceptDAD), Value: "0"},
			sysctl.Parameter{Path: switchPath(p.IfName, disableIPv6), Value: "0"})
	}
	return want
}

// ensureSwitches takes a switch that the kernel doesn't have for one of IPv6 in
// a kernel without it, or of an interface whose MTU is too small for it (1280):
// then there is nothing to switch, and IPv6 addresses are refused later.
func ensureSwitches(want []sysctl.Parameter) error {
	var errs []error
	for _, p := range want {
		if _, err := sysctl.Sync([]sysctl.Parameter{p}); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// readSwitches are these parameters with the values that they have, without
// those that the kernel doesn't have.
func readSwitches(want []sysctl.Parameter) []sysctl.Parameter {
	var have []sysctl.Parameter
	for _, p := range want {
		if v, err := sysctl.Get(p.Path); err == nil {
			have = append(have, sysctl.Parameter{Path: p.Path, Value: v})
		}
	}
	return have
}

// planSwitches leaves out what the kernel doesn't have.
func planSwitches(want, have Bridge) []op {
	var ops []op
	for _, w := range want.Switches {
		other := func(h sysctl.Parameter) bool { return h.Path == w.Path && h.Value != w.Value }
		if slices.ContainsFunc(have.Switches, other) {
			ops = append(ops, op{verb: setSwitch, bridge: want.Name, param: w})
		}
	}
	return ops
}

// keepRouters keeps what the host has from IPv6 routers: as a router itself,
// which forwarding makes it, it drops their default routes and heeds them no
// longer, but for interfaces that say 2. So those that accept advertisements now
// go on. The others' switches are not ours, nor is the one for interfaces to
// come: these would listen to containers as well as to routers.
func (k *Kernel) keepRouters() error {
	h, err := k.lib()
	if err != nil {
		return err
	}
	links, err := retryDump(h.LinkList)
	if err != nil {
		return fmt.Errorf("list the interfaces that accept router advertisements: %w", err)
	}
	for _, l := range links {
		if !hearsRouters(l.Attrs()) {
			continue
		}
		if err := ensureSwitches([]sysctl.Parameter{{Path: switchPath(l.Attrs().Name, acceptRA), Value: "2"}}); err != nil {
			return err
		}
	}
	return nil
}

// hearsRouters tells whether an interface accepts router advertisements for as
// long as the host isn't a router. To a port of a bridge none come, nor to a
// loopback.
func hearsRouters(l *netlink.LinkAttrs) bool {
	if l.MasterIndex != 0 || l.Flags&net.FlagLoopback != 0 {
		return false
	}
	accepts, err := sysctl.Get(switchPath(l.Name, acceptRA))
	if err != nil || accepts != "1" {
		return false
	}
	forwards, err := sysctl.Get(switchPath(l.Name, "forwarding"))
	return err == nil && forwards == "0"
}
