package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

// noResync leaves healing to the kernel's notifications.
func noResync(c *lab.Config) { c.DaemonArgs = append(c.DaemonArgs, "--resync", "1h") }

// damage is done by somebody else's hand.
type damage struct {
	name string
	do   func(*netlink.Handle) error
}

func damages() []damage {
	return []damage{
		{"the tunnel is deleted", onLink(tunnel, (*netlink.Handle).LinkDel)},
		{"the tunnel is set down", onLink(tunnel, (*netlink.Handle).LinkSetDown)},
		{"the tunnel is renamed", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(h.LinkSetDown(l), h.LinkSetName(l, "renamed"))
		})},
		{"the tunnel has another MTU", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1280) })},
		{"the tunnel has another MAC address", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			return h.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		})},
		{"the routes are deleted", onLink(tunnel, deleteRoutes)},
		{"the neighbours are deleted", onLink(tunnel, deleteNeighbors(netlink.FAMILY_V4, netlink.FAMILY_V6))},
		{"the forwarding entries are deleted", onLink(tunnel, deleteNeighbors(unix.AF_BRIDGE))},
		{"the addresses are deleted", onLink(tunnel, deleteAddresses)},
		{"all is flushed", onLink(tunnel, func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(deleteRoutes(h, l), deleteAddresses(h, l),
				deleteNeighbors(netlink.FAMILY_V4, netlink.FAMILY_V6, unix.AF_BRIDGE)(h, l))
		})},
		{"the bridge's addresses are deleted", onLink("cni0", deleteAddresses)},
		{"the bridge is set down", onLink("cni0", (*netlink.Handle).LinkSetDown)},
	}
}

func onLink(name string, do func(*netlink.Handle, netlink.Link) error) func(*netlink.Handle) error {
	return func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return do(h, l)
	}
}

// deleteRoutes leaves the kernel's own.
func deleteRoutes(h *netlink.Handle, l netlink.Link) error {
	routes, err := h.RouteList(l, netlink.FAMILY_ALL)
	errs := []error{err}
	for _, r := range routes {
		if r.Gw != nil {
			errs = append(errs, h.RouteDel(&r))
		}
	}
	return errors.Join(errs...)
}

func deleteAddresses(h *netlink.Handle, l netlink.Link) error {
	addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
	errs := []error{err}
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			errs = append(errs, h.AddrDel(l, &a))
		}
	}
	return errors.Join(errs...)
}

func deleteNeighbors(families ...int) func(*netlink.Handle, netlink.Link) error {
	return func(h *netlink.Handle, l netlink.Link) error {
		var errs []error
		for _, family := range families {
			neighs, err := h.NeighList(l.Attrs().Index, family)
			errs = append(errs, err)
			for _, n := range neighs {
				if n.IP.IsMulticast() {
					continue
				}
				if family == unix.AF_BRIDGE {
					n.Flags |= netlink.NTF_SELF
				}
				errs = append(errs, h.NeighDel(&n))
			}
		}
		return errors.Join(errs...)
	}
}

func TestDaemonHeals(t *testing.T) {
	f := newFleet(t, 2, noResync)
	f.quiet(withPatience(t))
	want := asNew(f.state(f.hosts[0]))
	for _, d := range damages() {
		t.Run(d.name, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.must(d.do(f.hosts[0].Handle()))
			f.healed(ctx, want)
		})
	}
	for _, path := range []string{
		"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding",
		"net/ipv4/conf/cni0/forwarding", "net/ipv4/conf/overlay0/forwarding",
	} {
		t.Run(path+" is turned off", func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.setSysctl(f.hosts[0], path, "0")
			f.healed(ctx, want)
		})
	}
	// The last one: to put existing pods back on a new bridge is more than this.
	t.Run("the bridge is deleted", func(t *testing.T) {
		f, ctx := f.sub(t), withPatience(t)
		f.must(onLink("cni0", (*netlink.Handle).LinkDel)(f.hosts[0].Handle()))
		late := f.addPod(ctx, f.hosts[0], "late")
		f.eventually(ctx, func(ctx context.Context) error {
			return errors.Join(ping(ctx, late, f.pods[1]), ping(ctx, f.pods[1], late))
		})
	})
}

func (f *fleet) setSysctl(h *lab.Host, path, value string) {
	f.t.Helper()
	f.on(h.Netns(), func() error { return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0) })
}

// healed waits until the first host is as it was and its pod is heard again.
func (f *fleet) healed(ctx context.Context, want []string) {
	f.t.Helper()
	f.eventually(ctx, func(ctx context.Context) error {
		if diff := cmp.Diff(want, asNew(f.state(f.hosts[0]))); diff != "" {
			return fmt.Errorf("not healed (-want +have):\n%s", diff)
		}
		return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
	})
}

// The host forwards already, but what is made new on it does not.
func TestDaemonForwardsOnNewDevices(t *testing.T) {
	f, ctx := newIdleFleet(t, 2, nil), withPatience(t)
	for _, h := range f.hosts {
		f.setSysctl(h, "net/ipv4/ip_forward", "1")
		f.setSysctl(h, "net/ipv4/conf/default/forwarding", "0")
		f.start(ctx, h)
		f.pods = append(f.pods, f.addPod(ctx, h, "pod"))
	}
	f.ping(ctx, f.pods[0], f.pods[1])
}

// What nobody is notified of is found by the resync.
func TestDaemonResyncHeals(t *testing.T) {
	f, ctx := newFleet(t, 1, nil), withPatience(t)
	h := f.hosts[0]
	f.quiet(ctx)
	want := asNew(f.state(h))
	f.stop(ctx, h)
	f.start(ctx, h, "--resync", "1s")
	f.must(firewall.New(firewall.InNetns(h.Netns().FD())).Delete())
	f.must(os.Remove(filepath.Join(h.RunDir(), "node.json")))
	f.eventually(ctx, func(context.Context) error {
		if _, err := os.Stat(filepath.Join(h.RunDir(), "node.json")); err != nil {
			return err
		}
		if diff := cmp.Diff(want, asNew(f.state(h))); diff != "" {
			return fmt.Errorf("not healed (-want +have):\n%s", diff)
		}
		return nil
	})
}

func TestDaemonUnderlayComesBack(t *testing.T) {
	f := newFleet(t, 2, noResync)
	host := f.hosts[0].Handle()
	for _, tt := range []struct {
		name     string
		leave    func(*fleet)
		log      string
		comeBack func(*fleet)
	}{{
		"set down and up",
		func(f *fleet) { f.must(onLink("eth0", (*netlink.Handle).LinkSetDown)(host)) },
		`interface \"eth0\" is down: set it up`,
		func(f *fleet) {
			f.must(onLink("eth0", (*netlink.Handle).LinkSetUp)(host))
			f.must(host.RouteReplace(f.defaultRoute()))
		},
	}, {
		// The kernel deletes the tunnel together with its underlay.
		"deleted and made anew",
		func(f *fleet) { f.must(onLink("eth0", (*netlink.Handle).LinkDel)(host)) },
		"there is no default route, and no interface has an address by which the registry knows this host (192.168.77.1)",
		(*fleet).plugInAnew,
	}} {
		t.Run(tt.name, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			tt.leave(f)
			f.must(f.hosts[0].Daemon().Log.Wait(ctx, tt.log))
			tt.comeBack(f)
			f.eventually(ctx, func(ctx context.Context) error {
				return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
			})
		})
	}
}

func (f *fleet) defaultRoute() *netlink.Route {
	f.t.Helper()
	l, err := f.hosts[0].Handle().LinkByName("eth0")
	f.must(err)
	return &netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(192, 168, 77, 254)}
}

// plugInAnew gives the first host an interface as it had before.
func (f *fleet) plugInAnew() {
	f.t.Helper()
	h := f.hosts[0]
	wire, err := f.lab.Switch().Handle()
	f.must(err)
	defer wire.Close()
	bridge, err := wire.LinkByName("switch")
	f.must(err)
	f.must(wire.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: h.Name, MTU: 1500, MasterIndex: bridge.Attrs().Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(h.Netns().FD()), PeerMTU: 1500,
	}))
	f.must(onLink(h.Name, (*netlink.Handle).LinkSetUp)(wire))
	f.must(onLink("eth0", func(handle *netlink.Handle, l netlink.Link) error {
		address := netip.PrefixFrom(h.Addresses()[0], 24)
		return errors.Join(handle.AddrAdd(l, &netlink.Addr{IPNet: ipNetOf(address)}), handle.LinkSetUp(l))
	})(h.Handle()))
	f.must(h.Handle().RouteAdd(f.defaultRoute()))
}
