package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// The settings of all hosts change while the daemons run. No daemon restarts,
// and nothing of the old settings stays.
func TestDaemonFollowsItsConfiguration(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleetWithConfig(t, m.set)
		a := f.hosts[0]
		for _, tt := range []struct {
			name, settings string
			is             func(context.Context) error
		}{
			{"VNI and port", "vxlan: {vni: 77, port: 8472}", func(context.Context) error {
				return f.tunnels(a, tunnel, func(v *netlink.Vxlan) bool { return v.VxlanId == 77 && v.Port == 8472 })
			}},
			{"MTU", "mtu: 1400", func(context.Context) error {
				return errors.Join(f.carries(a, carrier{"eth0", a.Addresses()[0].String(), 1400}),
					f.tunnels(a, tunnel, func(v *netlink.Vxlan) bool { return v.VxlanId == 1 && v.Port == 4789 }))
			}},
			{"the tunnel's name", "vxlan: {device: vx0}", func(context.Context) error {
				if _, err := a.Handle().LinkByName(tunnel); err == nil {
					return errors.New("the old tunnel is still there")
				}
				return f.tunnels(a, "vx0", func(v *netlink.Vxlan) bool { return v.MTU == 1500-m.overhead() })
			}},
			{"no masquerading", "masquerade: false", func(ctx context.Context) error {
				// The outside has no route to pods.
				for _, outside := range f.lab.Outside() {
					if _, err := probe.Ping(ctx, f.pods[0].Netns(), outside); err == nil {
						return fmt.Errorf("the pod has an answer from %s", outside)
					}
				}
				return nil
			}},
			{"masquerading again", "", func(ctx context.Context) error {
				var errs []error
				for _, outside := range f.lab.Outside() {
					_, err := probe.Ping(ctx, f.pods[0].Netns(), outside)
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				f.configure(tt.settings + "\n")
				f.eventually(ctx, tt.is)
				f.eventually(ctx, func(ctx context.Context) error {
					return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
				})
			})
		}
		t.Run("mistakes", func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.configure("mtu: 1\n")
			f.must(a.Daemon().Log.Wait(ctx, "the configuration stays as it was, because the new one is refused"))
			f.ping(ctx, f.pods[0], f.pods[1])
		})
	})
}

// tunnels checks the VXLAN device.
func (f *fleet) tunnels(h *lab.Host, name string, right func(*netlink.Vxlan) bool) error {
	l, err := h.Handle().LinkByName(name)
	if err != nil {
		return err
	}
	if v, ok := l.(*netlink.Vxlan); !ok || !right(v) {
		return fmt.Errorf("the tunnel is %+v", l)
	}
	return nil
}

// A host that is out of addresses gets one more subnet: new pods have addresses
// of it, and all pods go on.
func TestDaemonNodeGetsASecondSubnet(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 2, m.set, noResync), withPatience(t)
		streams := f.talk(ctx, f.pods[0], f.pods[1])
		nodes := entries(f.hosts...)
		more := likeOf(nodes[0].subnets[0], "10.244.200.0/30", "fd44:0:0:200::/126") // one pod, or two, beside the gateway
		nodes[0].subnets = append(nodes[0].subnets, more)
		f.register(nodes)
		f.eventually(ctx, func(context.Context) error { return knows(f.hosts[1], nodes[:1]) })
		f.eventually(ctx, func(context.Context) error {
			if got := f.published(f.hosts[0]).Subnets; len(got) != len(m.subnets)+1 {
				return fmt.Errorf("published %v", got)
			}
			return nil
		})
		pod := f.addPod(ctx, f.hosts[0], "late")
		if len(pod.Addresses) != len(m.subnets) {
			t.Errorf("the pod has addresses %v, want one a family", pod.Addresses)
		}
		f.ping(ctx, pod, f.pods[1])
		f.ping(ctx, f.pods[1], pod)
		f.register(entries(f.hosts...))
		f.eventually(ctx, func(context.Context) error { return knows(f.hosts[1], entries(f.hosts[0])) })
		f.end(ctx, streams)
	})
}

// The host's network is moved to another interface, as bonds and bridges are
// set up on running hosts.
func TestDaemonFollowsItsAddressToAnotherInterface(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 2, m.set, noResync), withPatience(t)
		h := f.hosts[0]
		handle := h.Handle()
		f.must(handle.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", MTU: 1500}}))
		eth0, err := handle.LinkByName("eth0")
		f.must(err)
		br0, err := handle.LinkByName("br0")
		f.must(err)
		f.must(errors.Join(handle.LinkSetMaster(eth0, br0), handle.LinkSetUp(br0)))
		for _, a := range h.Addresses() {
			address := netip.PrefixFrom(a, map[bool]int{true: 24, false: 64}[a.Is4()])
			f.must(errors.Join(
				handle.AddrDel(eth0, &netlink.Addr{IPNet: ipNetOf(address)}),
				handle.AddrAdd(br0, &netlink.Addr{IPNet: ipNetOf(address), Flags: unix.IFA_F_NODAD}),
			))
		}
		f.eventually(ctx, func(context.Context) error {
			return f.carries(h, carrier{"br0", h.Addresses()[0].String(), 1500 - m.overhead()})
		})
		f.eventually(ctx, func(ctx context.Context) error {
			return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
		})
	})
}

// Direct routing is turned on and off while pods talk.
func TestDaemonRoutesDirectly(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleetWithConfig(t, m.set)
		ctx := withPatience(t)
		f.quiet(ctx) // hosts don't ask for neighbours before their link-local addresses are beyond doubt
		streams := f.talk(ctx, f.pods[0], f.pods[1])
		for _, tt := range []struct{ settings, device string }{
			{"directRouting: true", "eth0"},
			{"directRouting: false", tunnel},
		} {
			f.configure(tt.settings + "\n")
			f.eventually(ctx, func(context.Context) error {
				for i, h := range f.hosts {
					for _, p := range f.pods[1-i].Addresses {
						routes, err := h.Handle().RouteGet(p.AsSlice())
						if err != nil {
							return err
						}
						l, err := h.Handle().LinkByIndex(routes[0].LinkIndex)
						if err != nil {
							return err
						}
						if l.Attrs().Name != tt.device {
							return fmt.Errorf("%s sends to %s by %s, not %s", h.Name, p, l.Attrs().Name, tt.device)
						}
					}
				}
				return nil
			})
			f.goesOn(ctx, streams)
		}
		f.end(ctx, streams)
	})
}
