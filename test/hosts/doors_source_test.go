package hosts

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// strictSources makes hosts drop what does not come by the way to its sender. IPv6
// has no such switch, so an nftables rule does it for both families.
func (f *fleet) strictSources() {
	f.t.Helper()
	for _, h := range f.hosts {
		f.on(h.Netns(), func() error {
			_, err := sysctl.Sync([]sysctl.Parameter{{Path: "net/ipv4/conf/all/rp_filter", Value: "1"}, {Path: "net/ipv4/conf/eth0/rp_filter", Value: "1"}})
			return err
		})
		f.nft(h, "add table inet strict; add chain inet strict in { type filter hook prerouting priority 0; }; "+
			"add rule inet strict in iifname eth0 fib saddr . iif oif missing drop")
	}
}

// dialFrom connects from a local address.
func (f *fleet) dialFrom(ctx context.Context, ns *sandbox.Netns, from netip.Addr, to netip.AddrPort) error {
	return ns.Do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
		c, err := d.DialContext(ctx, "tcp", to.String())
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// What others than pods send to another host's pod is answered, although hosts check
// sources: by a process that is bound to its host's address, through a redirection
// of the host itself, and through one of a client outside.
func TestHostsReachPodsOfOtherHosts(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		name string
		args []string
	}{{"by the tunnel", nil}, {"by direct routing", []string{"--direct-routing"}}} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			eachMode(t, func(t *testing.T, m mode) {
				f := newFleet(t, 2, m.set, func(c *lab.Config) { c.DaemonArgs = append(c.DaemonArgs, s.args...) })
				f.strictSources()
				a, pod := f.hosts[0], f.pods[1]
				for i, address := range pod.Addresses {
					mirror, err := probe.ServeMirror(pod.Netns(), netip.AddrPortFrom(address, 80))
					f.must(err)
					t.Cleanup(func() { mirror.Close() })
					f.redirect(a, a.Addresses()[i], address)
					for _, from := range []netip.Addr{a.Addresses()[i], subnet.Gateway(a.Subnets()[i]), subnet.VTEP(a.Subnets()[i])} {
						if err := f.dialFrom(withPatience(t), a.Netns(), from, mirror.Addr); err != nil {
							t.Errorf("a process bound to %s: %v", from, err)
						}
					}
					service := netip.AddrPortFrom(a.Addresses()[i], 8080)
					for _, ns := range []*sandbox.Netns{a.Netns(), f.lab.Switch(), f.pods[0].Netns()} {
						if _, err := probe.TCP(withPatience(t), ns, service); err != nil {
							t.Errorf("from %s through the host's port: %v", ns.Name(), err)
						}
					}
					// Pods keep their addresses, also through a redirection.
					seen, err := probe.TCP(withPatience(t), f.pods[0].Netns(), mirror.Addr)
					if err != nil || seen.Source.Addr() != f.pods[0].Addresses[i] {
						t.Errorf("a pod is seen as %s: %v", seen.Source, err)
					}
				}
			})
		})
	}
}

// redirect leads port 8080 of a host's address to port 80 of a pod.
func (f *fleet) redirect(h *lab.Host, at, to netip.Addr) {
	f.t.Helper()
	family := "ip"
	if at.Is6() {
		family = "ip6"
	}
	f.nft(h, "add table "+family+" svc; "+
		"add chain "+family+" svc pre { type nat hook prerouting priority -100; }; "+
		"add chain "+family+" svc out { type nat hook output priority -100; }")
	for _, chain := range []string{"pre", "out"} {
		f.nft(h, "add rule "+family+" svc "+chain+" "+family+" daddr "+at.String()+" tcp dport 8080 dnat to "+netip.AddrPortFrom(to, 80).String())
	}
}

// Other programs' VXLANs share the port with another VNI: on hosts, and between pods
// and to the outside with any VNI that is not ours.
func TestOtherVXLANsAreLeftAlone(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set)
		a, world := f.hosts[0], f.lab.Switch()
		second := f.addPod(withPatience(t), a, "second")
		f.must(a.Handle().LinkAdd(&netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: "theirs", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 7}},
			VxlanId:   42, Port: tunnelPort, Learning: false, SrcAddr: a.Addresses()[0].AsSlice(),
		}))
		f.must(onLink("theirs", (*netlink.Handle).LinkSetUp)(a.Handle()))
		for _, from := range []*sandbox.Netns{world, f.hosts[1].Netns()} {
			f.eventually(withPatience(t), f.counts(a, "theirs", knock{from: from, to: a.Addresses()[0], victim: f.pods[0]}, 42))
		}
		for _, tt := range []struct {
			name   string
			server *sandbox.Netns
			at     netip.Addr
			vni    uint32
		}{
			{"to a pod of its host", second.Netns(), second.Addresses[0], 1},
			{"to a pod of another host", f.pods[1].Netns(), f.pods[1].Addresses[0], 1},
			{"to the outside", world, f.lab.Outside()[0], 42},
		} {
			echo, err := probe.ServeEcho(tt.server, netip.AddrPortFrom(tt.at, tunnelPort))
			f.must(err)
			defer echo.Close()
			f.eventually(withPatience(t), func(ctx context.Context) error {
				return f.answered(ctx, knock{from: f.pods[0].Netns(), to: tt.at, victim: f.pods[0]}, tt.vni)
			})
		}
	})
}

// counts returns nil once a device has received what is sent.
func (f *fleet) counts(h *lab.Host, device string, k knock, vni uint32) func(context.Context) error {
	return func(context.Context) error {
		if err := k.send(vni, 1); err != nil {
			return err
		}
		l, err := h.Handle().LinkByName(device)
		if err == nil && l.Attrs().Statistics.RxPackets == 0 {
			err = errors.New(device + " has received nothing")
		}
		return err
	}
}

// answered sends what looks like a packet of a tunnel, and waits for the echo.
func (f *fleet) answered(ctx context.Context, k knock, vni uint32) error {
	return k.from.Do(func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(k.to, tunnelPort).String())
		if err != nil {
			return err
		}
		defer c.Close()
		deadline, _ := ctx.Deadline()
		err = c.SetDeadline(deadline)
		if err == nil {
			_, err = c.Write(k.payload(vni, 1))
		}
		if err == nil {
			_, err = c.Read(make([]byte, 2000))
		}
		return err
	})
}
