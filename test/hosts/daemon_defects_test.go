package hosts

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/sandbox/sandboxtest"
)

// TestDaemonLeavesOthersRoutes has a peer whose pod subnet a device of the host
// has already: the route stays, the peer is reported, and other peers work.
func TestDaemonLeavesOthersRoutes(t *testing.T) {
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
	f := newFleet(t, 2)
	h, ctx := f.hosts[0], withPatience(t)
	a, b := f.addPod(ctx, h, "a"), f.addPod(ctx, f.hosts[1], "b")
	f.ping(ctx, a, b)
	f.stop(ctx, h)
	d := f.launch(h, "--bridge", "cni1")
	f.must(d.Log.Wait(ctx, `bridge is \"cni1\" now and was \"cni0\"`))
	f.ping(ctx, a, b)
}

// TestPodsWithAnMTUBelowIPv6s are on a host whose underlay is a tunnel itself.
func TestPodsWithAnMTUBelowIPv6s(t *testing.T) {
	f := newFleet(t, 2, func(c *lab.Config) {
		c.MTU, c.PodNetworks = 1280, []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	})
	ctx := withPatience(t)
	f.ping(ctx, f.addPod(ctx, f.hosts[0], "a"), f.addPod(ctx, f.hosts[1], "b"))
}

// TestSecondNetworkOfAPod is a pod with two networks: the second takes nothing
// from the first, neither when it comes nor when it goes.
func TestSecondNetworkOfAPod(t *testing.T) {
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

func TestSamePortOfTwoNetworksOfAPod(t *testing.T) {
	p := newPlugin(t, "10.244.1.0/24")
	q := newPluginOn(p.host, "10.9.0.0/24")
	q.conf["name"], q.conf["bridge"] = "second", "cni1"
	before := p.snapshot(t)
	ns := sandboxtest.NewNetns(t).Path()
	web := map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
	for i, n := range []*pluginHost{p, q} {
		call := invocation{command: "ADD", netns: ns, ifName: []string{"eth0", "net1"}[i], stdin: n.ports(web)}
		if _, cniErr := n.run(t, call); cniErr != nil {
			t.Fatal(cniErr)
		}
	}
	for i, n := range []*pluginHost{q, p} {
		if _, cniErr := n.run(t, invocation{command: "DEL", ifName: []string{"net1", "eth0"}[i]}); cniErr != nil {
			t.Fatal(cniErr)
		}
	}
	if after := p.snapshot(t); after != before {
		t.Errorf("left behind:\n%s", after)
	}
}
