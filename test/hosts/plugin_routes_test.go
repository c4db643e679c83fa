package hosts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// TestConfiguredDefaultRoute: a configured default route replaces our own, for its
// family only.
func TestConfiguredDefaultRoute(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		routes []map[string]string
		want   []string
	}{
		{"none", nil, []string{"0.0.0.0/0 via 10.244.1.1", "::/0 via fd00:244:1::1"}},
		{"without a gateway", []map[string]string{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}}, []string{"0.0.0.0/0 via 10.244.1.1", "::/0 via fd00:244:1::1"}},
		{"IPv4", []map[string]string{{"dst": "0.0.0.0/0", "gw": "10.244.1.9"}}, []string{"0.0.0.0/0 via 10.244.1.9", "::/0 via fd00:244:1::1"}},
		{"IPv6", []map[string]string{{"dst": "::/0", "gw": "fd00:244:1::9"}}, []string{"0.0.0.0/0 via 10.244.1.1", "::/0 via fd00:244:1::9"}},
		{"dual stack", []map[string]string{{"dst": "0.0.0.0/0", "gw": "10.244.1.9"}, {"dst": "::/0", "gw": "fd00:244:1::9"}}, []string{"0.0.0.0/0 via 10.244.1.9", "::/0 via fd00:244:1::9"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := &podUnderTest{p: newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")}
			u.p.conf["ipam"].(map[string]any)["routes"] = tc.routes
			u.ns, u.raw = u.p.add(t, "pod")
			if got := gatewayRoutes(t, netlinkIn(t, u.ns)); fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("the pod has %q, want %q", got, tc.want)
			}
			var result bytes.Buffer
			if err := json.Compact(&result, []byte(u.raw)); err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.want {
				dst, gw, _ := strings.Cut(want, " via ")
				if !strings.Contains(result.String(), fmt.Sprintf(`{"dst":%q,"gw":%q}`, dst, gw)) {
					t.Errorf("the result lacks %s: %s", want, u.raw)
				}
			}
			if n := strings.Count(u.raw, `"dst"`); n != len(tc.want) {
				t.Errorf("the result has %d routes: %s", n, u.raw)
			}
			if cniErr := u.check(t); cniErr != nil {
				t.Errorf("CHECK: %v", cniErr)
			}
			h := netlinkIn(t, u.ns)
			for _, r := range routesOf(t, h) {
				if r.Gw == nil {
					continue
				}
				if err := h.RouteDel(&r); err != nil {
					t.Fatal(err)
				}
			}
			cniErr := u.check(t)
			for _, want := range tc.want {
				if cniErr == nil || !strings.Contains(cniErr.Msg, "lacks the route to "+want) {
					t.Errorf("CHECK without %s: %v", want, cniErr)
				}
			}
		})
	}
}

// TestConfiguredDefaultRouteOfASecondNetwork: the first network's stays, and the
// second one's subnet is behind its bridge, whatever router was configured.
func TestConfiguredDefaultRouteOfASecondNetwork(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		p := newPlugin(t, m.subnets...)
		subnets := inMode(m, prefixesOf("10.9.0.0/24", "fd00:9::/64"))
		q := newPluginOn(p.host, textsOf(subnets)...)
		var routes []map[string]string
		for _, gw := range inMode(m, []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")}) {
			routes = append(routes, map[string]string{"dst": veth.AllAddresses(gw).String(), "gw": gw.String()})
		}
		q.conf["name"], q.conf["bridge"] = "second", "cni1"
		q.conf["ipam"].(map[string]any)["routes"] = routes
		ns, _ := p.add(t, "pod")
		out, cniErr := q.run(t, invocation{command: "ADD", netns: ns.Path(), ifName: "net1"})
		if cniErr != nil {
			t.Fatal(cniErr)
		}
		var want []string
		for i, gateway := range m.gateways() {
			want = append(want, fmt.Sprintf("%s via %s", veth.AllAddresses(gateway), gateway),
				fmt.Sprintf("%s via %s", subnets[i], subnets[i].Addr().Next()))
		}
		got := gatewayRoutes(t, netlinkIn(t, ns))
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("the pod has %q, want %q", got, want)
		}
		check := invocation{command: "CHECK", netns: ns.Path(), ifName: "net1", stdin: q.with(map[string]any{"prevResult": rawJSON(out)})}
		if _, cniErr := q.run(t, check); cniErr != nil {
			t.Error(cniErr)
		}
	})
}

func textsOf(prefixes []netip.Prefix) []string {
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return texts
}

func routesOf(t *testing.T, h *netlink.Handle) []netlink.Route {
	t.Helper()
	var all []netlink.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := h.RouteList(nil, family)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, routes...)
	}
	return all
}

// gatewayRoutes are a namespace's routes by a next hop.
func gatewayRoutes(t *testing.T, h *netlink.Handle) []string {
	t.Helper()
	var lines []string
	for _, r := range routesOf(t, h) {
		if r.Gw != nil {
			lines = append(lines, fmt.Sprintf("%s via %s", r.Dst, r.Gw))
		}
	}
	return lines
}

// TestRoutesOfProgramsInThePod: a VPN client in a pod adds routes via the gateway as
// it does on any link, and the kernel takes them.
func TestRoutesOfProgramsInThePod(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		p := newPlugin(t, m.subnets...)
		ns, _ := p.add(t, "pod")
		h := netlinkIn(t, ns)
		link, err := h.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		elsewhere := inMode(m, prefixesOf("198.51.100.9/32", "2001:db8:9::9/128"))
		for i, gateway := range m.gateways() {
			dst := elsewhere[i]
			r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: netlink.NewIPNet(dst.Addr().AsSlice()), Gw: gateway.AsSlice()}
			if err := h.RouteAdd(r); err != nil {
				t.Errorf("ip route add %s via %s: %v", dst, gateway, err)
			}
		}
	})
}
