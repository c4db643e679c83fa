package hosts

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// TestDaemonLeavesOthersRoutes has a peer whose pod subnet a device of the host
// has already: the route stays, the peer is reported, and other peers work.
func TestDaemonLeavesOthersRoutes(t *testing.T) {
	t.Parallel()
	f := newIdleFleet(t, 2)
	h, ctx := f.hosts[0], withPatience(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "docker0"
	docker := &netlink.Bridge{LinkAttrs: attrs}
	f.must(h.Handle().LinkAdd(docker))
	f.must(h.Handle().LinkSetUp(docker))
	f.must(h.Handle().AddrAdd(docker, &netlink.Addr{IPNet: ipNet("172.17.0.1/16")}))
	f.register([]entry{
		{h.Name, h.Addresses(), h.Subnets()},
		{"host-x", []netip.Addr{netip.MustParseAddr("192.168.77.9")}, []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}},
		{f.hosts[1].Name, f.hosts[1].Addresses(), f.hosts[1].Subnets()},
	})
	d := f.launch(h)
	f.must(d.Log.Wait(ctx, "published this node")) // pods are let in
	f.must(d.Log.Wait(ctx, "another device has a route to it (ip route show 172.17.0.0/16)"))
	routes, err := h.Handle().RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: ipNet("172.17.0.0/16")}, netlink.RT_FILTER_DST)
	f.must(err)
	if len(routes) != 1 || routes[0].LinkIndex != docker.Attrs().Index {
		t.Errorf("the routes to docker0's network are %v", routes)
	}
	if there, err := h.HasRoute(f.hosts[1].Subnets()[0]); !there || err != nil {
		t.Errorf("the other peer has no route: %v", err)
	}
}

func TestSecondDaemonOnAHostRefusesToStart(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	h, ctx := f.hosts[0], withPatience(t)
	first := h.Daemon()
	second, err := h.LaunchDaemon("--vxlan-device", "overlay9")
	f.must(err)
	f.must(second.Log.Wait(ctx, "another overlayd runs on this host"))
	<-second.Done()
	f.must(first.Stop(ctx))
	f.start(ctx, h)
}

func TestDaemonRefusesAnotherBridgeWhileTheOldOneIsThere(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	h, ctx := f.hosts[0], withPatience(t)
	a, b := f.addPod(ctx, h, "a"), f.addPod(ctx, f.hosts[1], "b")
	f.ping(ctx, a, b)
	f.stop(ctx, h)
	d := f.launch(h, "--bridge", "cni1")
	f.must(d.Log.Wait(ctx, `bridge changed to \"cni1\", but this host's pods are on \"cni0\"`))
	f.ping(ctx, a, b)
}

// TestPodsWithAnMTUBelowIPv6s are on a host whose underlay is a tunnel itself.
func TestPodsWithAnMTUBelowIPv6s(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, func(c *lab.Config) {
		c.MTU, c.PodNetworks = 1280, []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	})
	ctx := withPatience(t)
	f.ping(ctx, f.addPod(ctx, f.hosts[0], "a"), f.addPod(ctx, f.hosts[1], "b"))
}

// TestSecondNetworkOfAPod is a pod with two networks: the second takes nothing
// from the first, neither when it comes nor when it goes.
func TestSecondNetworkOfAPod(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	q := newPluginOn(p.host, "10.9.0.0/24")
	q.conf["name"], q.conf["bridge"] = "second", "cni1"
	ns, _ := p.add(t, "pod")
	q.add(t, "other")
	reaches := func(what string, addr string) {
		t.Helper()
		if err := reach(t.Context(), t, ns, netip.MustParseAddr(addr)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	call := invocation{command: "ADD", id: "pod", netns: ns.Path(), ifName: "net1", stdin: q.with(nil)}
	out, cniErr := q.run(t, call)
	if cniErr != nil {
		t.Fatal(cniErr)
	}
	reaches("the first network's gateway, with both", "10.244.1.1")
	reaches("the second network's gateway", "10.9.0.1")
	reaches("a pod of the second network", "10.9.0.2")
	call.command = "CHECK"
	call.stdin = q.with(map[string]any{"prevResult": rawJSON(out)})
	if _, cniErr := q.run(t, call); cniErr != nil {
		t.Errorf("CHECK: %v", cniErr)
	}
	call.command = "DEL"
	if _, cniErr := q.run(t, call); cniErr != nil {
		t.Fatal(cniErr)
	}
	reaches("a pod of the first network, after the second went", "10.244.1.1")
}

// TestTwoNetworksOnOneBridge keep each other's pods reachable: the bridge's MAC
// address is in their ARP caches.
func TestTwoNetworksOnOneBridge(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	q := newPluginOn(p.host, "10.9.0.0/24", "fd00:9::/64")
	q.conf["name"], q.conf["mtu"] = "second", 1400
	ns, out := p.add(t, "a")
	if err := reach(t.Context(), t, ns, netip.MustParseAddr("10.244.1.1")); err != nil {
		t.Fatal(err)
	}
	second, _ := q.add(t, "b")
	q.add(t, "c")
	for _, addr := range []string{"10.244.1.1", "10.9.0.1", "10.9.0.2"} {
		if err := reach(t.Context(), t, ns, netip.MustParseAddr(addr)); err != nil {
			t.Error(err)
		}
	}
	// The bridge was made for IPv4 alone.
	if err := reach(t.Context(), t, second, netip.MustParseAddr("fd00:9::3")); err != nil {
		t.Error(err)
	}
	check := invocation{command: "CHECK", id: "a", netns: ns.Path(), stdin: p.with(map[string]any{"prevResult": rawJSON(out)})}
	if _, cniErr := p.run(t, check); cniErr != nil {
		t.Errorf("CHECK of the first network's pod: %v", cniErr)
	}
}

// TestSamePortOfTwoNetworksOfAPod: a runtime asks each of a container's networks
// for the same ports. The first that can serve one has it.
func TestSamePortOfTwoNetworksOfAPod(t *testing.T) {
	t.Parallel()
	const ipv4, ipv6 = "10.244.1.0/24", "fd00:244:1::/64"
	const second4, second6 = "10.9.0.0/24", "fd00:9::/64"
	for _, tc := range []struct {
		name          string
		first, second []string
		want          string // where the port leads to, of each family
	}{
		{onlyIPv4, []string{ipv4}, []string{second4}, "10.244.1.2"},
		{onlyIPv6, []string{ipv6}, []string{second6}, "fd00:244:1::2"},
		{dualStack, []string{ipv4, ipv6}, []string{second4, second6}, "10.244.1.2 fd00:244:1::2"},
		{"IPv4, then dual stack", []string{ipv4}, []string{second4, second6}, "10.244.1.2 fd00:9::2"},
		{"IPv6, then dual stack", []string{ipv6}, []string{second4, second6}, "10.9.0.2 fd00:244:1::2"},
		{"dual stack, then IPv4", []string{ipv4, ipv6}, []string{second4}, "10.244.1.2 fd00:244:1::2"},
		{"IPv4, then IPv6", []string{ipv4}, []string{second6}, "10.244.1.2 fd00:9::2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, ns := newPlugin(t, tc.first...), sandboxtest.NewNetns(t).Path()
			q := newPluginOn(p.host, tc.second...)
			q.conf["name"], q.conf["bridge"] = "second", "cni1"
			before := p.snapshot(t)
			web := []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}
			each := func(command string, networks ...*pluginHost) {
				t.Helper()
				for _, n := range networks {
					ifName := map[*pluginHost]string{p: "eth0", q: "net1"}[n]
					out, cniErr := n.run(t, invocation{command: command, netns: ns, ifName: ifName})
					if cniErr != nil {
						t.Fatalf("%s of %s: %v", command, ifName, cniErr)
					}
					if command == "ADD" {
						n.conf["prevResult"] = rawJSON(out)
					}
				}
			}
			for _, n := range []*pluginHost{p, q} {
				n.conf["runtimeConfig"] = map[string]any{"portMappings": web}
			}
			each("ADD", p, q)
			if got := joined(p.portTargets(t), " "); got != tc.want {
				t.Errorf("the port leads to %s, want %s", got, tc.want)
			}
			each("CHECK", p, q)
			each("DEL", q, p)
			if after := p.snapshot(t); after != before {
				t.Errorf("left behind:\n%s", after)
			}
		})
	}
}

// portTargets are the pods' addresses that host ports lead to.
func (p *pluginHost) portTargets(t *testing.T) []netip.Addr {
	t.Helper()
	var all []netip.Addr
	for _, line := range p.portLines(t) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[1], "ports") {
			continue
		}
		data, err := hex.DecodeString(fields[3])
		if err != nil {
			t.Fatal(err)
		}
		const port = 4 // bytes, of a whole register
		addr, ok := netip.AddrFromSlice(data[:len(data)-port])
		if !ok {
			t.Fatalf("%q leads to no address", line)
		}
		all = append(all, addr)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}
