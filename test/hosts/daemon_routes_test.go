package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// familyOf is the option of ip(8) for an address.
func familyOf(a netip.Addr) string {
	if a.Is4() {
		return "-4"
	}
	return "-6"
}

// metricOf is the metric of the kernel's routes to the networks of its addresses.
func metricOf(a netip.Addr) string {
	if a.Is4() {
		return "0"
	}
	return "256"
}

// ownRouteDamages remove or alter the routes that the kernel makes with the bridge's
// addresses.
func ownRouteDamages(h *lab.Host) map[string]func(f *fleet) {
	all := map[string]func(f *fleet){}
	for _, subnet := range h.Subnets() {
		gateway := subnet.Addr().Next()
		option := familyOf(gateway)
		for name, args := range map[string][]string{
			"the route to own pods is deleted":    {"route", "del", subnet.String(), "dev", "cni0"},
			"the bridge's routes are flushed":     {"route", "flush", "dev", "cni0"},
			"the gateway's own route is deleted":  {"route", "del", "local", gateway.String(), "dev", "cni0", "table", "local"},
			"all routes of the bridge are gone":   {"route", "flush", "table", "all", "dev", "cni0"},
			"the route to own pods has other MTU": {"route", "change", subnet.String(), "dev", "cni0", "proto", "kernel", "mtu", "600", "metric", metricOf(gateway)},
		} {
			all[option+" "+name] = func(f *fleet) { f.command(f.hosts[0], "ip", append([]string{option}, args...)...) }
		}
	}
	return all
}

// The routes that the kernel makes with the bridge's addresses are kept.
func TestDaemonKeepsTheBridgesRoutes(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set, withHealth)
		f.quiet(withPatience(t))
		for name, damage := range ownRouteDamages(f.hosts[0]) {
			t.Run(name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				before := bridgeRoutes(f)
				damage(f)
				f.eventually(ctx, func(ctx context.Context) error {
					if diff := cmp.Diff(before, bridgeRoutes(f)); diff != "" {
						return fmt.Errorf("not healed (-want +have):\n%s", diff)
					}
					return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
				})
				f.must(f.pods[0].Check(ctx))
			})
		}
	})
}

// bridgeRoutes are the routes on the first host's bridge that pods need. Pods don't
// need those to broadcast and anycast addresses. The kernel gives a program's route to
// an IPv6 address of the host another metric than its own, which changes nothing.
func bridgeRoutes(f *fleet) []string {
	var lines []string
	for _, line := range f.state(f.hosts[0]) {
		if strings.HasPrefix(line, "route ") && strings.Contains(line, "cni0") && !regexp.MustCompile("type (3|4) ").MatchString(line) {
			lines = append(lines, regexp.MustCompile("(table 255 type 2 .*) metric .*").ReplaceAllString(line, "$1"))
		}
	}
	return lines
}

// strayRoute is a route of another program that leads pods' traffic astray.
type strayRoute struct {
	name   string
	add    [][]string // commands of ip(8)
	del    [][]string
	status int
	words  []string
}

func strayRoutes(own, peer netip.Prefix, pod, peerPod netip.Addr) []strayRoute {
	const down, degraded = http.StatusServiceUnavailable, http.StatusOK
	// The kernel prefers the first IPv4 route of a metric, and the IPv6 route with the
	// smallest metric.
	first := func(verb string, route ...string) []string {
		if own.Addr().Is4() {
			return append([]string{"route", map[string]string{"add": "prepend", "del": "del"}[verb]}, route...)
		}
		return append(append([]string{"route", verb}, route...), "metric", "100")
	}
	return []strayRoute{
		{"a blackhole takes all of this host's pods", [][]string{first("add", "blackhole", own.String())}, [][]string{first("del", "blackhole", own.String())}, down,
			[]string{"network: down since ", "blackhole " + own.String(), "this host's pod subnet " + own.String(), "route del blackhole"}},
		{"a route replaces the one to this host's pods", [][]string{{"route", "del", own.String(), "dev", "cni0"}, first("add", own.String(), "dev", "eth0")},
			[][]string{first("del", own.String(), "dev", "eth0")}, down,
			[]string{"network: down since ", own.String() + " dev eth0", "route del " + own.String() + " dev eth0"}},
		{"a route takes one pod of this host", [][]string{{"route", "add", pod.String(), "dev", "eth0"}}, [][]string{{"route", "del", pod.String(), "dev", "eth0"}}, degraded,
			[]string{"network: degraded since ", "a part of this host's pod subnet " + own.String(), pod.String(), "dev eth0"}},
		{"this host has the address of a pod", [][]string{{"addr", "add", pod.String(), "dev", "lo"}}, [][]string{{"addr", "del", pod.String(), "dev", "lo"}}, degraded,
			[]string{"network: degraded since ", "local " + pod.String(), "ip addr show dev lo"}},
		{"a route takes one pod of another host", [][]string{{"route", "add", "unreachable", peerPod.String()}}, [][]string{{"route", "del", "unreachable", peerPod.String()}}, degraded,
			[]string{"network: degraded since ", "a part of another host's pod subnet " + peer.String(), "unreachable " + peerPod.String()}},
		{"a blackhole takes all pods of another host", [][]string{first("add", "blackhole", peer.String())}, [][]string{first("del", "blackhole", peer.String())}, degraded,
			[]string{"network: degraded since ", "blackhole " + peer.String(), "another host's pod subnet " + peer.String()}},
	}
}

// Other programs' routes that lead pods' traffic astray stay, and /readyz names them.
func TestDaemonReportsStrayRoutes(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set, withHealth)
		a := f.hosts[0]
		for i, own := range a.Subnets() {
			option := familyOf(own.Addr())
			for _, tt := range strayRoutes(own, f.hosts[1].Subnets()[i], f.pods[0].Addresses[i], f.pods[1].Addresses[i]) {
				t.Run(option+" "+tt.name, func(t *testing.T) {
					f, ctx := f.sub(t), withPatience(t)
					for _, args := range tt.add {
						f.command(a, "ip", append([]string{option}, args...)...)
					}
					f.must(probe.Eventually(ctx, func(ctx context.Context) error { return says(ctx, a, "/readyz", tt.status, tt.words...) }))
					for _, args := range tt.del {
						f.command(a, "ip", append([]string{option}, args...)...)
					}
					f.eventuallyReady(ctx, a)
					f.eventually(ctx, func(ctx context.Context) error {
						return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
					})
				})
			}
		}
	})
}

// What an earlier network left on the host is named before pods are let in.
func TestDaemonReportsALeftOverBridge(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newIdleFleet(t, 1, m.set, withHealth), withPatience(t)
		a := f.hosts[0]
		f.command(a, "ip", "link", "add", "old0", "type", "bridge")
		f.command(a, "ip", "link", "set", "old0", "up")
		for _, s := range a.Subnets() {
			f.command(a, "ip", "addr", "add", netip.PrefixFrom(s.Addr().Next(), s.Bits()).String(), "dev", "old0", "nodad")
		}
		f.launch(a)
		f.eventuallyDown(ctx, a, a.Subnets()[0].String()+" dev old0", "ip link del old0")
		f.command(a, "ip", "link", "del", "old0")
		f.eventuallyReady(ctx, a)
		pod := f.addPod(ctx, a, "pod")
		f.must(pod.Check(ctx))
		f.eventually(ctx, func(ctx context.Context) error {
			_, err := probe.PingFrom(ctx, a.Netns(), a.Addresses()[0], pod.Addresses[0])
			return err
		})
	})
}

// Nobody mends the host's routes while the daemon is away, but CHECK tells.
func TestCheckSeesTheHostsRoutes(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 1, m.set), withPatience(t)
		a, pod := f.hosts[0], f.pods[0]
		f.must(pod.Check(ctx))
		f.stop(ctx, a)
		for i, own := range a.Subnets() {
			option, route := familyOf(own.Addr()), []string{own.String(), "dev", "cni0", "proto", "kernel", "metric", metricOf(own.Addr())}
			f.command(a, "ip", append([]string{option, "route", "del"}, route...)...)
			if err := pod.Check(ctx); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("the host does not send to %s by cni0", pod.Addresses[i])) {
				t.Errorf("without the route to %s: %v", own, err)
			}
			f.command(a, "ip", append([]string{option, "route", "add"}, route...)...)
			f.must(pod.Check(ctx))
		}
	})
}

// A pod keeps its address when its node gets another subnet. Nothing reaches it.
func TestCheckSeesThatTheGatewayIsGone(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 1, m.set), withPatience(t)
		a, pod := f.hosts[0], f.pods[0]
		moved := entries(a)
		moved[0].subnets = m.prefixes("10.244.9.0/24", "fd44:0:0:9::/64")
		f.register(moved)
		for _, own := range a.Subnets() {
			f.eventually(ctx, func(ctx context.Context) error {
				want := fmt.Sprintf("the pod's gateway %s is not on cni0", own.Addr().Next())
				if err := pod.Check(ctx); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "delete the pod") {
					return fmt.Errorf("CHECK says %w, not %s", err, want)
				}
				return nil
			})
		}
	})
}

// What carries a pod's traffic is mended, and CHECK tells while nobody mends it.
func TestCheckSeesWhatCarriesTraffic(t *testing.T) {
	t.Parallel()
	dual(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 2, m.set, withHealth), withPatience(t)
		a, pod := f.hosts[0], f.pods[0]
		port := onlyPort(t, a)
		f.stop(ctx, a)
		for _, tt := range []struct {
			name  string
			do    []string
			inPod bool
			words string
			undo  []string // of what the daemon doesn't mend: it is the pod's
		}{
			{"the port is disabled", []string{"bridge", "link", "set", "dev", port, "state", "0"}, false, "has state altered", nil},
			{"the port is locked", []string{"bridge", "link", "set", "dev", port, "locked", "on"}, false, "has locked altered", nil},
			{"the port suppresses neighbours", []string{"bridge", "link", "set", "dev", port, "neigh_suppress", "on"}, false, "has neigh_suppress altered", nil},
			{"the port neither learns nor floods", []string{"bridge", "link", "set", "dev", port, "learning", "off", "flood", "off"}, false, "has learning altered", nil},
			{"the port has a smaller MTU", []string{"ip", "link", "set", port, "mtu", "700"}, false, "has MTU 700, less than", nil},
			{"the port is unplugged", []string{"ip", "link", "set", port, "nomaster"}, false, "is not a port of cni0", nil},
			{"the bridge asks for no MAC address", []string{"ip", "link", "set", "cni0", "arp", "off"}, false, "needs: turn ARP and multicast on", nil},
			{"the bridge is down", []string{"ip", "link", "set", "cni0", "down"}, false, "needs: set up", nil},
			{"the pod asks for no MAC address", []string{"ip", "link", "set", "eth0", "arp", "off"}, true, "eth0 has ARP or multicast turned off",
				[]string{"ip", "link", "set", "eth0", "arp", "on"}},
			{"the pod has a smaller MTU", []string{"ip", "link", "set", "eth0", "mtu", "1300"}, true, "eth0 has MTU 1300",
				[]string{"ip", "link", "set", "eth0", "mtu", "1450"}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				ns := a.Netns()
				if tt.inPod {
					ns = pod.Netns()
				}
				f.must(pod.Check(ctx))
				f.runIn(ns, tt.do)
				if err := pod.Check(ctx); err == nil || !strings.Contains(err.Error(), tt.words) {
					t.Errorf("CHECK says %v, not %s", err, tt.words)
				}
				if tt.undo != nil {
					f.runIn(ns, tt.undo)
				}
				f.start(ctx, a)
				f.eventually(ctx, func(ctx context.Context) error {
					return errors.Join(pod.Check(ctx), ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
				})
				f.stop(ctx, a)
			})
		}
	})
}

// onlyPort returns the name of the port of a host's only pod.
func onlyPort(t *testing.T, h *lab.Host) string {
	t.Helper()
	links, err := h.Handle().LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "veth") {
			return l.Attrs().Name
		}
	}
	t.Fatal("there is no pod's port")
	return ""
}
