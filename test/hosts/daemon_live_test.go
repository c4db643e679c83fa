package hosts

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// change is made while pods talk, and then undone.
type change struct {
	name     string
	do, undo func(*fleet)
	// done reports whether the daemons have applied the change.
	done func(*fleet) bool
	// cuts says that the hosts concerned can't send meanwhile.
	cuts bool
}

// The configuration of running hosts changes, or the interface that carries the
// tunnel. Streams of other hosts lose no packet. Nor do the host's own, if the
// tunnel stays. If the daemon replaces the tunnel or the underlay goes away, the
// host's own streams have a gap, which ends within the time for repairs.
func TestDaemonStreamsOutliveChanges(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newConfiguredFleet(t, 3, m)
		apart := f.talk(withPatience(t), f.pods[0], f.pods[1])
		for _, c := range slices.Concat(settingChanges(), underlayChanges(f.hosts[2])) {
			t.Run(c.name, func(t *testing.T) { f.sub(t).through(c) })
		}
		f.end(withPatience(t), apart)
		t.Run("VNI and port of all hosts", func(t *testing.T) { f.sub(t).through(otherTunnel((*fleet).all)) })
	})
}

// newConfiguredFleet has a configuration file for each host.
func newConfiguredFleet(t *testing.T, size int, m mode) *fleet {
	t.Helper()
	f := newIdleFleet(t, size, m.set, withHealth)
	ctx := withPatience(t)
	for _, h := range f.hosts {
		f.set(h, "")
		f.start(ctx, h, "--config", ownConfig(h))
		f.pods = append(f.pods, f.addPod(ctx, h, "pod"))
	}
	f.quiet(ctx)
	return f
}

func ownConfig(h *lab.Host) string { return filepath.Join(h.RunDir(), configFile) }

// set changes a host's settings.
func (f *fleet) set(h *lab.Host, settings string) {
	f.t.Helper()
	f.must(os.WriteFile(ownConfig(h), []byte(settings+"\n"), 0o644))
}

// through makes a change while pods of the third host talk to one another and
// to a pod of the first.
func (f *fleet) through(c change) {
	f.t.Helper()
	ctx := withPatience(f.t)
	neighbor := f.addPod(ctx, f.hosts[2], "neighbor")
	local, streams := f.talk(ctx, f.pods[2], neighbor), f.talk(ctx, f.pods[0], f.pods[2])
	c.do(f)
	f.eventually(ctx, c.isDone(f, true))
	if !c.cuts {
		f.goesOn(ctx, streams)
	}
	c.undo(f)
	f.eventually(ctx, c.isDone(f, false))
	if c.cuts {
		f.endWithin(ctx, streams, 2*healing) // once to do it, once to undo it
	} else {
		f.end(ctx, streams)
	}
	f.end(ctx, local)
	f.must(neighbor.Delete(ctx))
}

func (c change) isDone(f *fleet, want bool) func(context.Context) error {
	return func(context.Context) error {
		if c.done(f) != want {
			return fmt.Errorf("%s: is done: %v", c.name, !want)
		}
		return nil
	}
}

// endWithin allows a gap. All streams end together, because each waits for late
// answers.
func (f *fleet) endWithin(ctx context.Context, streams talk, limit time.Duration) {
	f.t.Helper()
	f.goesOn(ctx, streams)
	counts := make(chan probe.Counts, len(streams))
	for _, s := range streams {
		go func() { counts <- s.Stop() }()
	}
	for range streams {
		c := <-counts
		f.t.Logf("%s; the longest pause was %s", c, c.Gap)
		if c.Gap > limit || c.Duplicated > 0 {
			f.t.Errorf("%s, %d duplicated; the longest pause was %s, more than %s", c, c.Duplicated, c.Gap, limit)
		}
	}
}

// all are the hosts with a configuration. Changes on third do not concern the
// others.
func (f *fleet) all() []*lab.Host   { return f.hosts }
func (f *fleet) third() []*lab.Host { return f.hosts[2:3] }

// setTo changes settings of some hosts. It is done once each host has them.
func setTo(settings string, on func(*fleet) []*lab.Host, done func(*fleet, *lab.Host) bool) change {
	set := func(text string) func(*fleet) {
		return func(f *fleet) {
			for _, h := range on(f) {
				f.set(h, text)
			}
		}
	}
	return change{name: settings, do: set(settings), undo: set(""), done: func(f *fleet) bool {
		return !slices.ContainsFunc(on(f), func(h *lab.Host) bool { return !done(f, h) })
	}}
}

// settingChanges keep the tunnel, or change the third host alone.
func settingChanges() []change {
	lower := func(f *fleet, h *lab.Host) bool {
		return mtuOf(f, h.Handle(), tunnel) == 1400 && mtuOf(f, h.Handle(), "cni0") == 1400
	}
	masquerades := func(f *fleet, h *lab.Host) bool {
		return strings.Contains(f.nft(h, "list", "table", "inet", "overlay-cni"), "masquerade")
	}
	exempts := func(f *fleet, h *lab.Host) bool {
		return strings.Contains(f.nft(h, "list", "table", "inet", "overlay-cni"), "198.51.100.0")
	}
	return []change{
		setTo("mtu: 1400", (*fleet).all, lower),
		setTo("masquerade: false", (*fleet).all, func(f *fleet, h *lab.Host) bool { return !masquerades(f, h) }),
		setTo("noMasqueradeTo: [198.51.100.0/24, \"2001:db8::/32\"]", (*fleet).all, exempts),
		otherTunnel((*fleet).third),
	}
}

// otherTunnel changes settings for which the kernel needs a new device.
func otherTunnel(on func(*fleet) []*lab.Host) change {
	c := setTo("vxlan: {vni: 77, port: 8472}", on, func(f *fleet, h *lab.Host) bool {
		return f.tunnels(h, tunnel, func(v *netlink.Vxlan) bool { return v.VxlanId == 77 && v.Port == 8472 }) == nil
	})
	c.cuts = true
	return c
}

// underlayChanges happen to the third host.
func underlayChanges(h *lab.Host) []change {
	other := netip.MustParsePrefix("192.168.77.103/24")
	if h.Addresses()[0].Is6() {
		other = netip.MustParsePrefix("fd77::103/64")
	}
	onEth0 := func(do func(*netlink.Handle, netlink.Link) error) func(*fleet) {
		return func(f *fleet) { f.must(onLink("eth0", do)(f.hosts[2].Handle())) }
	}
	mtu := func(size int) func(*fleet) {
		return onEth0(func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, size) })
	}
	return []change{
		{
			name: "the underlay's MTU", do: mtu(1400), undo: mtu(1500),
			done: func(f *fleet) bool { return mtuOf(f, f.hosts[2].Handle(), tunnel) < 1400 },
		},
		{
			name: "the underlay's address",
			do: func(f *fleet) {
				onEth0(func(h *netlink.Handle, l netlink.Link) error {
					return h.AddrReplace(l, &netlink.Addr{IPNet: ipNetOf(other), Flags: unix.IFA_F_NODAD})
				})(f)
				nodes := entries(f.hosts...)
				nodes[2].addresses = append([]netip.Addr{other.Addr()}, nodes[2].addresses[1:]...)
				f.register(nodes)
			},
			undo: func(f *fleet) { f.must(f.lab.Register(f.hosts...)) },
			done: func(f *fleet) bool { return sendsFrom(f.hosts[2], other.Addr()) == nil },
		},
		{
			name: "the underlay is down", cuts: true,
			do: onEth0((*netlink.Handle).LinkSetDown),
			undo: func(f *fleet) {
				onEth0((*netlink.Handle).LinkSetUp)(f)
				one := *f
				one.hosts = f.hosts[2:3]
				one.configureUplink()
			},
			done: func(f *fleet) bool {
				return says(f.t.Context(), f.hosts[2], "/readyz", http.StatusServiceUnavailable) == nil
			},
		},
	}
}
