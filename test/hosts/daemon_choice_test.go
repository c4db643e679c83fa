package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// bothWays pings between the first pods of two hosts.
func (f *fleet) bothWays(ctx context.Context) {
	f.t.Helper()
	f.eventually(ctx, func(ctx context.Context) error {
		return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
	})
}

// looksAgain damages a host's tunnel, and returns when a round has mended it: a round
// that has seen everything from before the damage.
func (f *fleet) looksAgain(ctx context.Context, h *lab.Host, peers ...*lab.Host) {
	f.t.Helper()
	f.must(onLink(tunnel, deleteRoutes)(h.Handle()))
	f.eventually(ctx, func(context.Context) error { return knows(h, entries(peers...)) })
}

// alone gives an interface an address without a network.
func alone(a netip.Addr) func(*netlink.Handle, netlink.Link) error {
	return func(h *netlink.Handle, l netlink.Link) error {
		return h.AddrAdd(l, &netlink.Addr{IPNet: ipNetOf(subnet.Host(a)), Flags: unix.IFA_F_NODAD})
	}
}

// The host's address on an interface that leads nowhere is no reason to leave eth0, and
// while eth0 is made anew no other interface takes its place.
func TestDaemonIsNotMisledByTheHostsAddressElsewhere(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set, withHealth)
		a, b := f.hosts[0], f.hosts[1]
		own := a.Addresses()[0]
		eth0 := carrier{"eth0", own.String(), 1500 - m.overhead()}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "kube-ipvs0"
		// Not a dummy, which not every kernel has; it stays down.
		f.must(a.Handle().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far"}))
		attrs.Name = "docker0"
		f.must(a.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
		f.must(onLink("docker0", (*netlink.Handle).LinkSetUp)(a.Handle()))
		for _, elsewhere := range []string{"lo", "docker0", "kube-ipvs0"} {
			ctx := withPatience(t)
			f.must(onLink(elsewhere, alone(own))(a.Handle()))
			f.looksAgain(ctx, a, b)
			f.must(f.carries(a, eth0))
			f.eventuallyReady(ctx, a)
			f.bothWays(ctx)
			if elsewhere != "kube-ipvs0" { // which stays
				f.must(onLink(elsewhere, func(h *netlink.Handle, l netlink.Link) error {
					return h.AddrDel(l, &netlink.Addr{IPNet: ipNetOf(subnet.Host(own))})
				})(a.Handle()))
			}
		}
		ctx := withPatience(t)
		f.must(onLink("eth0", (*netlink.Handle).LinkDel)(a.Handle()))
		f.eventuallyDown(ctx, a, fmt.Sprintf(`interface "eth0", which carried the tunnel and had %s, the registry's address of this host, is gone: bring it back, or correct the registry`, own))
		f.plugInAnew()
		f.eventuallyReady(ctx, a)
		f.must(f.carries(a, eth0))
		f.bothWays(ctx)
	})
}

// A host that loses the address of its tunnel for a moment waits for it, says so, and
// goes on as before when the address is back: also a daemon that starts meanwhile.
func TestDaemonKeepsTheTunnelsFamily(t *testing.T) {
	t.Parallel()
	for _, first := range []int{0, 1} {
		t.Run([]string{"IPv4 first", "IPv6 first"}[first], func(t *testing.T) {
			t.Parallel()
			f := newIdleFleet(t, 2, modes[2].set, withHealth)
			nodes := entries(f.hosts...)
			for i := range nodes {
				nodes[i].addresses = []netip.Addr{nodes[i].addresses[first], nodes[i].addresses[1-first]}
			}
			f.register(nodes)
			for _, h := range f.hosts {
				f.start(withPatience(t), h)
				f.pods = append(f.pods, f.addPod(withPatience(t), h, "pod"))
			}
			h, own := f.hosts[0], nodes[0].addresses[0]
			runs := carrier{"eth0", own.String(), []int{1450, 1430}[first]}
			ctx := withPatience(t)
			f.bothWays(ctx)
			f.must(f.carries(h, runs))
			whole := netip.PrefixFrom(own, []int{24, 64}[first])
			f.must(onLink("eth0", func(nh *netlink.Handle, l netlink.Link) error {
				return nh.AddrDel(l, &netlink.Addr{IPNet: ipNetOf(whole)})
			})(h.Handle()))
			why := fmt.Sprintf(`interface "eth0", which carries the tunnel, has lost %s, the registry's address of this host: add the address again, or correct the registry`, own)
			f.eventuallyDown(ctx, h, why)
			f.must(f.carries(h, runs))
			f.stop(ctx, h)
			f.launch(h)
			f.eventuallyDown(ctx, h, why)
			f.must(f.carries(h, runs))
			f.addPod(ctx, h, "meanwhile")
			f.configureUplink()
			f.eventuallyReady(ctx, h)
			f.must(f.carries(h, runs))
			f.bothWays(ctx)
		})
	}
}

// Two hosts whose tunnels run over different families are named on both.
func TestDaemonsNameWhoseTunnelRunsOverTheOtherFamily(t *testing.T) {
	t.Parallel()
	f := newIdleFleet(t, 2, modes[2].set, withHealth)
	nodes := entries(f.hosts...)
	slices.Reverse(nodes[1].addresses)
	f.register(nodes)
	ctx := withPatience(t)
	for i, h := range f.hosts {
		f.launch(h)
		here, there := []string{"IPv4", "IPv6"}[i], []string{"IPv6", "IPv4"}[i]
		want := fmt.Sprintf(`peer %q has its %s address first in the registry, so its tunnel runs over %[2]s, while this host's runs over %[3]s`, nodes[1-i].name, there, here)
		f.eventually(ctx, func(ctx context.Context) error {
			return says(ctx, h, "/readyz", http.StatusOK, "network: degraded since ", want, "write the addresses of all nodes in one order, or set underlayFamily on all hosts")
		})
	}
	f.register(entries(f.hosts...))
	for _, h := range f.hosts {
		f.eventuallyReady(ctx, h)
	}
}

// An underlay too narrow for IPv6 pods carries those of IPv4, and says what is missing;
// with a wider one there are both.
func TestDaemonOnANarrowUnderlay(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		family         string
		narrow, enough int // MTUs of eth0
	}{{"ipv4", 1329, 1330}, {"ipv6", 1349, 1350}} {
		t.Run(tc.family, func(t *testing.T) {
			t.Parallel()
			f, ctx := newIdleFleet(t, 1, modes[2].set, withHealth), withPatience(t)
			h := f.hosts[0]
			set := func(mtu int) {
				f.must(onLink("eth0", func(nh *netlink.Handle, l netlink.Link) error { return nh.LinkSetMTU(l, mtu) })(h.Handle()))
			}
			set(tc.narrow)
			f.launch(h, "--underlay-family", tc.family)
			f.must(probe.Eventually(ctx, func(ctx context.Context) error {
				return says(ctx, h, "/readyz", http.StatusOK, "this host's pods have IPv4 alone, and its subnets [fd44:0:0:1::/64] are left out",
					fmt.Sprintf("IPv6 pods need an MTU of 1280, but underlay eth0, whose MTU is %d, leaves 1279: raise the MTU of eth0 to %d or more", tc.narrow, tc.enough))
			}))
			if p := f.addPod(ctx, h, "narrow"); len(p.Addresses) != 1 || !p.Addresses[0].Is4() {
				t.Errorf("the pod has %v", p.Addresses)
			}
			set(tc.enough)
			f.eventuallyReady(ctx, h)
			if p := f.addPod(ctx, h, "wide"); len(p.Addresses) != 2 {
				t.Errorf("the pod has %v", p.Addresses)
			}
		})
	}
}

// A peer at an address that no host has is left out and named; the others go on.
func TestDaemonLeavesOutPeersAtBroadcastAddresses(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 2, m.set, withHealth), withPatience(t)
		a := f.hosts[0]
		nobody := likeOf(a.Subnets()[0], "192.168.77.255/32", "fd77::/128").Addr()
		segment := likeOf(a.Subnets()[0], "192.168.77.0/24", "fd77::/64")
		bad := entry{"host-c", []netip.Addr{nobody}, []netip.Prefix{likeOf(a.Subnets()[0], "10.244.9.0/24", "fd44:0:0:9::/64")}}
		f.register(append(entries(f.hosts...), bad))
		f.eventually(ctx, func(ctx context.Context) error {
			return says(ctx, a, "/readyz", http.StatusOK, fmt.Sprintf(`peer "host-c" is left out: its address %s is the first or last of the underlay's network %s, which mean any host there: correct the registry`, nobody, segment))
		})
		f.bothWays(ctx)
	})
}
