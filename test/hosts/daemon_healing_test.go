package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// noResync leaves healing to the kernel's notifications.
func noResync(c *lab.Config) { c.DaemonArgs = append(c.DaemonArgs, "--resync", "1h") }

// damage is a change that another program makes to the host.
type damage struct {
	name string
	do   func(*netlink.Handle) error
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

// deleteRoutes deletes all routes but the kernel's own.
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
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set, noResync)
		f.quiet(withPatience(t))
		want := asNew(f.state(f.hosts[0]))
		for _, d := range damagesIn(m) {
			t.Run(d.name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				f.must(d.do(f.hosts[0].Handle()))
				f.healed(ctx, want)
			})
		}
		for name, change := range ruleDamages() {
			t.Run(name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				f.nft(f.hosts[0], change)
				f.healed(ctx, want)
			})
		}
		for _, path := range m.switches() {
			t.Run(path+" is turned off", func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				f.setSysctl(f.hosts[0], path, "0")
				f.healed(ctx, want)
			})
		}
	})
}

// switches are the sysctls without which no traffic passes.
func (m mode) switches() []string {
	var paths []string
	if m.hasIPv4() {
		paths = append(paths, "net/ipv4/ip_forward", "net/ipv4/conf/cni0/forwarding", "net/ipv4/conf/overlay0/forwarding",
			"net/ipv4/conf/eth0/forwarding")
	}
	if m.hasIPv6() {
		paths = append(paths, "net/ipv6/conf/all/forwarding", "net/ipv6/conf/cni0/forwarding", "net/ipv6/conf/overlay0/forwarding")
	}
	return paths
}

// With a strict rp_filter the host drops packets that arrive on another interface
// than the reply would leave by. Such are those that programs of another host
// send to pods from the host's own address.
func TestDaemonKeepsItsDevicesLoose(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		if !m.hasIPv4() {
			return // IPv6 has no such filter
		}
		f := newFleet(t, 2, m.set, noResync)
		for _, path := range []string{
			"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/cni0/rp_filter", "net/ipv4/conf/overlay0/rp_filter",
		} {
			t.Run(path, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				a, b := f.hosts[0], f.hosts[1]
				f.setSysctl(a, path, "1")
				f.eventually(ctx, func(ctx context.Context) error {
					for _, device := range []string{"cni0", tunnel} {
						if v := f.sysctl(a, "net/ipv4/conf/"+device+"/rp_filter"); path == "net/ipv4/conf/all/rp_filter" && v != "2" || v == "1" {
							return fmt.Errorf("rp_filter of %s is %s", device, v)
						}
					}
					_, err := probe.PingFrom(ctx, b.Netns(), b.Addresses()[0], f.pods[0].Addresses[0])
					return err
				})
			})
		}
	})
}

// Pods must hear their gateway's MAC address. The kernel doesn't report this sysctl.
func TestDaemonAnswersPodsThatAsk(t *testing.T) {
	t.Parallel()
	f, ctx := newFleet(t, 1, withHealth, everySecond), withPatience(t)
	a := f.hosts[0]
	f.setSysctl(a, "net/ipv4/conf/cni0/arp_ignore", "8")
	f.eventually(ctx, func(context.Context) error {
		if v := f.sysctl(a, "net/ipv4/conf/cni0/arp_ignore"); v != "0" {
			return fmt.Errorf("arp_ignore is %s", v)
		}
		return nil
	})
	f.setSysctl(a, "net/ipv4/conf/all/arp_ignore", "8")
	f.eventuallyDown(ctx, a, "net.ipv4.conf.all.arp_ignore is 8")
	f.setSysctl(a, "net/ipv4/conf/all/arp_ignore", "1")
	f.eventuallyReady(ctx, a)
}

// everySecond overrides noResync.
func everySecond(c *lab.Config) { c.DaemonArgs = append(c.DaemonArgs, "--resync", "1s") }

func (f *fleet) sysctl(h *lab.Host, path string) string {
	f.t.Helper()
	var value []byte
	f.on(h.Netns(), func() (err error) {
		value, err = os.ReadFile(filepath.Join("/proc/sys", path))
		return err
	})
	return strings.TrimSpace(string(value))
}

func (f *fleet) setSysctl(h *lab.Host, path, value string) {
	f.t.Helper()
	f.on(h.Netns(), func() error { return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0) })
}

// healed waits until the first host is as before and its pod can be reached.
func (f *fleet) healed(ctx context.Context, want []string) {
	f.t.Helper()
	start := time.Now()
	f.eventually(ctx, func(ctx context.Context) error {
		if diff := cmp.Diff(want, asNew(f.state(f.hosts[0]))); diff != "" {
			return fmt.Errorf("not healed (-want +have):\n%s", diff)
		}
		return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
	})
	if took := time.Since(start); took > healing {
		f.t.Errorf("healed in %s, more than %s", took, healing)
	}
}

// The host forwards, but new devices on it do not.
func TestDaemonForwardsOnNewDevices(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newIdleFleet(t, 2, m.set), withPatience(t)
		for _, h := range f.hosts {
			f.setSysctl(h, "net/ipv4/ip_forward", "1")
			f.setSysctl(h, "net/ipv4/conf/default/forwarding", "0")
			f.setSysctl(h, "net/ipv6/conf/all/forwarding", "1")
			f.setSysctl(h, "net/ipv6/conf/default/forwarding", "0")
			f.start(ctx, h)
			f.pods = append(f.pods, f.addPod(ctx, h, "pod"))
		}
		f.ping(ctx, f.pods[0], f.pods[1])
	})
}

// The resync repairs changes that the kernel does not report.
func TestDaemonResyncHeals(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 1, m.set), withPatience(t)
		h := f.hosts[0]
		f.quiet(ctx)
		want := asNew(f.state(h))
		f.stop(ctx, h)
		f.start(ctx, h, "--resync", "1s")
		f.nft(h, "delete table inet overlay-cni")
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
	})
}

func TestDaemonUnderlayComesBack(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set, noResync)
		host := f.hosts[0].Handle()
		gone := fmt.Sprintf(`interface \"eth0\", which carried the tunnel and had %s, the registry's address of this host, is gone`, f.hosts[0].Addresses()[0])
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
				f.configureUplink()
			},
		}, {
			// The kernel deletes the tunnel together with its underlay.
			"deleted and made anew",
			func(f *fleet) { f.must(onLink("eth0", (*netlink.Handle).LinkDel)(host)) },
			gone,
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
	})
}

// configureUplink gives the first host's interface what it had before. IPv6
// addresses go when an interface is set down, and routes of both families.
func (f *fleet) configureUplink() {
	f.t.Helper()
	f.must(onLink("eth0", func(h *netlink.Handle, l netlink.Link) error {
		var errs []error
		for _, a := range f.hosts[0].Addresses() {
			bits, router := 24, net.IPv4(192, 168, 77, 254)
			if a.Is6() {
				bits, router = 64, net.ParseIP("fd77::ffff")
			}
			errs = append(errs,
				h.AddrReplace(l, &netlink.Addr{IPNet: ipNetOf(netip.PrefixFrom(a, bits)), Flags: unix.IFA_F_NODAD}),
				h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: router}))
		}
		return errors.Join(errs...)
	})(f.hosts[0].Handle()))
}

// plugInAnew gives the first host a new interface with the old settings.
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
	f.must(onLink("eth0", (*netlink.Handle).LinkSetUp)(h.Handle()))
	f.configureUplink()
}
