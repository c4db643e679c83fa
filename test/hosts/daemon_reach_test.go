package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

func TestDaemonPodsReachEachOther(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 3, m.set)
		ctx := withPatience(t)
		f.pods = append(f.pods, f.addPod(ctx, f.hosts[0], "second"))
		for _, from := range f.pods {
			for _, to := range f.pods {
				if from != to {
					f.reach(ctx, from, to)
				}
			}
			f.pingAll(ctx, from.Netns(), f.hosts[0].Addresses())
			f.pingAll(ctx, from.Netns(), f.hosts[1].Addresses())
		}
		for _, h := range f.hosts {
			for _, p := range f.pods {
				f.pingAll(ctx, h.Netns(), p.Addresses)
			}
		}
	})
}

func (f *fleet) pingAll(ctx context.Context, from *sandbox.Netns, to []netip.Addr) {
	f.t.Helper()
	for _, a := range to {
		if _, err := probe.Ping(ctx, from, a); err != nil {
			f.t.Error(err)
		}
	}
}

// reach tries every protocol, and checks the source address.
func (f *fleet) reach(ctx context.Context, from, to *lab.Pod) {
	f.t.Helper()
	f.pingAll(ctx, from.Netns(), to.Addresses)
	for i, a := range to.Addresses {
		f.udp(ctx, from, a, to.Netns())
		if source := f.seenBy(ctx, to.Netns(), a, from); source != from.Addresses[i] {
			f.t.Errorf("pod %s is seen as %s by %s, not as %s", from.Netns().Name(), source, a, from.Addresses[i])
		}
	}
}

func (f *fleet) udp(ctx context.Context, from *lab.Pod, to netip.Addr, server *sandbox.Netns) {
	f.t.Helper()
	echo, err := probe.ServeEcho(server, netip.AddrPortFrom(to, 0))
	f.must(err)
	defer echo.Close()
	if _, err := probe.UDP(ctx, from.Netns(), echo.Addr); err != nil {
		f.t.Error(err)
	}
}

// seenBy asks a TCP server which source address the pod has.
func (f *fleet) seenBy(ctx context.Context, server *sandbox.Netns, at netip.Addr, pod *lab.Pod) netip.Addr {
	f.t.Helper()
	mirror, err := probe.ServeMirror(server, netip.AddrPortFrom(at, 0))
	f.must(err)
	defer mirror.Close()
	seen, err := probe.TCP(ctx, pod.Netns(), mirror.Addr)
	f.must(err)
	return seen.Source.Addr()
}

func TestDaemonMasquerades(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 1, m.set)
		host, pod := f.hosts[0], f.pods[0]
		f.routeBack(host)
		for _, tt := range []struct {
			name string
			args []string
			want []netip.Addr // by family
		}{
			{"by default", nil, host.Addresses()},
			{"turned off", []string{"--masquerade=false"}, pod.Addresses},
			{"not to the outside", []string{"--no-masquerade-to", "203.0.113.0/24,2001:db8::/32"}, pod.Addresses},
			{"not to somewhere else", []string{"--no-masquerade-to", "198.51.100.0/24"}, host.Addresses()},
		} {
			t.Run(tt.name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				f.stop(ctx, host)
				f.start(ctx, host, tt.args...)
				for i, world := range f.lab.Outside() {
					if source := f.seenBy(ctx, f.lab.Switch(), world, pod); source != tt.want[i] {
						t.Errorf("%s sees the pod as %s, not as %s", world, source, tt.want[i])
					}
				}
			})
		}
	})
}

// routeBack lets the world answer pods, as it does where pod addresses are
// routed and nothing needs masquerading.
func (f *fleet) routeBack(h *lab.Host) {
	f.t.Helper()
	world, err := f.lab.Switch().Handle()
	f.must(err)
	defer world.Close()
	for i, s := range h.Subnets() {
		f.must(world.RouteAdd(&netlink.Route{Dst: ipNetOf(s), Gw: h.Addresses()[i].AsSlice()}))
	}
}

func ipNetOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// The largest packet that fits must pass whole. The pod's own interface must
// refuse a larger one.
func TestDaemonMTU(t *testing.T) {
	t.Parallel()
	four, six, both := modes[0], modes[1], modes[2]
	for _, tt := range []struct {
		mode     mode
		underlay int
		args     []string
		want     int
	}{
		{four, 1500, nil, 1450}, {four, 9000, nil, 8950}, {four, 1400, nil, 1350},
		{six, 1500, nil, 1430}, {six, 9000, nil, 8930}, {six, 1350, nil, 1280},
		{both, 1500, nil, 1450}, {both, 1500, []string{"--underlay-family", "ipv6"}, 1430},
	} {
		t.Run(fmt.Sprint(tt.mode.name, tt.underlay, tt.args), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 2, tt.mode.set, func(c *lab.Config) {
				c.MTU, c.DaemonArgs = tt.underlay, append(c.DaemonArgs, tt.args...)
			})
			f.checkMTU(withPatience(t), tt.want)
		})
	}
}

func (f *fleet) checkMTU(ctx context.Context, want int) {
	f.t.Helper()
	for i, h := range f.hosts {
		pod, err := f.pods[i].Netns().Handle()
		f.must(err)
		got := []int{mtuOf(f, h.Handle(), tunnel), mtuOf(f, h.Handle(), "cni0"), mtuOf(f, pod, "eth0"), f.published(h).MTU}
		pod.Close()
		for _, mtu := range got {
			if mtu != want {
				f.t.Errorf("%s: tunnel, bridge, pod and node.json have MTUs %v, not %d", h.Name, got, want)
				break
			}
		}
	}
	for i, address := range f.pods[1].Addresses {
		before := f.fragments()
		if err := f.whole(ctx, address, want); err != nil {
			f.t.Errorf("%s: %d bytes do not pass: %v", subnet.Host(address), want, err)
		}
		if err := f.whole(ctx, address, want+1); !errors.Is(err, unix.EMSGSIZE) {
			f.t.Errorf("address %d: one byte more: %v", i, err)
		}
		// Arrival alone proves nothing: the outer packets may have been fragmented.
		if after := f.fragments(); after != before {
			f.t.Errorf("the hosts fragmented: %s, before %s", after, before)
		}
	}
}

func mtuOf(f *fleet, h *netlink.Handle, name string) int {
	f.t.Helper()
	l, err := h.LinkByName(name)
	f.must(err)
	return l.Attrs().MTU
}

// whole sends a packet of the size between the first two pods and waits for the
// reply. The kernel does not fragment a packet that fits, so neither does the pod
// that answers.
func (f *fleet) whole(ctx context.Context, to netip.Addr, size int) error {
	f.t.Helper()
	echo, err := probe.ServeEcho(f.pods[1].Netns(), netip.AddrPortFrom(to, 0))
	f.must(err)
	defer echo.Close()
	return probe.Whole(ctx, f.pods[0].Netns(), echo.Addr, size)
}

// fragments returns how many fragments each host has made, as text.
func (f *fleet) fragments() string {
	f.t.Helper()
	text := ""
	for _, h := range f.hosts {
		var snmp, snmp6 []byte
		f.on(h.Netns(), func() (err error) {
			var err6 error
			snmp, err = os.ReadFile("/proc/thread-self/net/snmp")
			snmp6, err6 = os.ReadFile("/proc/thread-self/net/snmp6")
			return errors.Join(err, err6)
		})
		text += fmt.Sprintf("%s IPv4 %d IPv6 %d ", h.Name, f.fragCreates(snmp), f.fragCreates6(snmp6))
	}
	return text
}

// fragCreates is the last number of the line of values, the second that
// begins with "Ip: ".
func (f *fleet) fragCreates(snmp []byte) int {
	f.t.Helper()
	m := regexp.MustCompile(`(?m)^Ip: .* FragCreates.*\nIp: (?:\d+ ){18}(\d+)`).FindSubmatch(snmp)
	if m == nil {
		f.t.Fatalf("no FragCreates in:\n%s", snmp)
	}
	n, err := strconv.Atoi(string(m[1]))
	f.must(err)
	return n
}

func (f *fleet) fragCreates6(snmp6 []byte) int {
	f.t.Helper()
	m := regexp.MustCompile(`(?m)^Ip6FragCreates\s+(\d+)`).FindSubmatch(snmp6)
	if m == nil {
		f.t.Fatalf("no Ip6FragCreates in:\n%s", snmp6)
	}
	n, err := strconv.Atoi(string(m[1]))
	f.must(err)
	return n
}
