package plugin

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

func TestNetworkFromRanges(t *testing.T) {
	for _, tc := range []struct{ name, ipam, gateways, routes string }{
		{"IPv4", `"ranges":[[{"subnet":"10.244.1.0/24"}]]`, "10.244.1.1/24", ""},
		{"IPv6", `"ranges":[[{"subnet":"fd00::/64"}]]`, "fd00::1/64", ""},
		{"dual stack", `"ranges":[[{"subnet":"fd00::/64"}],[{"subnet":"10.244.1.0/24","gateway":"10.244.1.254"}]]`, "fd00::1/64 10.244.1.254/24", ""},
		{"two ranges in a set", `"ranges":[[{"subnet":"10.1.0.0/24"},{"subnet":"10.2.0.0/24"}]]`, "10.1.0.1/24 10.2.0.1/24", ""},
		{"routes", `"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"192.168.0.0/16"},{"dst":"172.16.0.0/12","gw":"10.244.1.9"}]`,
			"10.244.1.1/24", "192.168.0.0/16 10.244.1.1, 172.16.0.0/12 10.244.1.9"},
		{"default routes", `"ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00::/64"}]],"routes":[{"dst":"0.0.0.0/0","gw":"10.244.1.9"},{"dst":"::/0"}]`,
			"10.244.1.1/24 fd00::1/64", "0.0.0.0/0 10.244.1.9"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := parseConf([]byte(`{"type":"overlay-cni","ipam":{` + tc.ipam + `}}`))
			if err != nil {
				t.Fatal(err)
			}
			n, err := c.settings(0)
			if err != nil {
				t.Fatal(err)
			}
			var gateways, routes []string
			for _, g := range n.bridge.Gateways {
				gateways = append(gateways, g.String())
			}
			for _, r := range n.routes {
				routes = append(routes, r.Dst.String()+" "+r.Via.String())
			}
			if got := strings.Join(gateways, " "); got != tc.gateways {
				t.Errorf("gateways %s, want %s", got, tc.gateways)
			}
			if got := strings.Join(routes, ", "); got != tc.routes {
				t.Errorf("routes %s, want %s", got, tc.routes)
			}
			if n.bridge.Name != "cni0" || n.bridge.MTU != 1500 {
				t.Errorf("defaults: %+v", n.bridge)
			}
		})
	}
}

func TestRoutesThatCannotBeMade(t *testing.T) {
	for _, tc := range []struct{ routes, want string }{
		{`{"dst":"10.9.0.0/16","mtu":1400}`, `the route to 10.9.0.0/16 has the key "mtu"`},
		{`{"dst":"10.9.0.0/16","advmss":1400}`, `the route to 10.9.0.0/16 has the key "advmss"`},
		{`{"dst":"10.9.0.0/16","priority":5}`, `the route to 10.9.0.0/16 has the key "priority"`},
		{`{"dst":"10.9.0.0/16","table":100}`, `the route to 10.9.0.0/16 has the key "table"`},
		{`{"dst":"0.0.0.0/0","scope":253}`, `the route to 0.0.0.0/0 has the key "scope"`},
		{`{"dst":"0.0.0.0/0","gw":"10.244.1.8"},{"dst":"0.0.0.0/0","gw":"10.244.1.9"}`, "two routes to 0.0.0.0/0"},
		{`{"dst":"10.9.0.0/16"},{"dst":"10.9.0.1/16","gw":"10.244.1.9"}`, "two routes to 10.9.0.0/16"},
		{`{"dst":"::/0","gw":"fd00::9"},{"dst":"0.0.0.0/0","table":null}`, ""},
	} {
		t.Run(tc.routes, func(t *testing.T) {
			c, err := parseConf([]byte(`{"type":"overlay-cni","ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00::/64"}]],"routes":[` + tc.routes + `]}}`))
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.settings(0)
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// A network with ranges of its own may share a bridge with others, but not with a
// daemon that keeps other gateways there.
func TestNetworkOnTheDaemonsBridge(t *testing.T) {
	state := nodestate.State{
		Node: "host-a", MTU: 1450, Bridge: "cni0", Device: "overlay0",
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd44:1::/64")},
	}
	publish := func(dir string) error { _, err := nodestate.Sync(dir, state); return err }
	withdraw := func(dir string) error { return errors.Join(publish(dir), nodestate.Withdraw(dir)) }
	for _, tc := range []struct {
		name   string
		daemon func(dir string) error
		keys   string
		mtu    int
		want   string // of the error
	}{
		{name: "IPv4 without a daemon", keys: `"ipam":{"ranges":[[{"subnet":"10.9.0.0/24"}]]}`, mtu: 1500},
		{name: "IPv4", daemon: publish, keys: `"ipam":{"ranges":[[{"subnet":"10.9.0.0/24"}]]}`,
			want: `network "second" has the gateway 10.9.0.1/24 on bridge cni0, which belongs to overlayd and has the gateways of [10.244.1.0/24 fd44:1::/64] alone: set bridge to another name`},
		{name: "IPv6", daemon: publish, keys: `"ipam":{"ranges":[[{"subnet":"fd09::/64"}]]}`, want: "has the gateway fd09::1/64 on bridge cni0"},
		{name: "a daemon that withdrew", daemon: withdraw, keys: `"ipam":{"ranges":[[{"subnet":"10.9.0.0/24"}]]}`, want: "has the gateway 10.9.0.1/24 on bridge cni0"},
		{name: "another bridge", daemon: publish, keys: `"bridge":"cni1","ipam":{"ranges":[[{"subnet":"10.9.0.0/24"}]]}`, mtu: 1500},
		{name: "a part of the daemon's subnets", daemon: publish, keys: `"ipam":{"ranges":[[{"subnet":"10.244.1.0/24","rangeStart":"10.244.1.9"}],[{"subnet":"fd44:1::/64"}]]}`, mtu: 1450},
		{name: "another gateway of the daemon's subnet", daemon: publish, keys: `"ipam":{"ranges":[[{"subnet":"10.244.1.0/24","gateway":"10.244.1.9"}]]}`, want: "has the gateway 10.244.1.9/24 on bridge cni0"},
		{name: "more than the daemon's MTU", daemon: publish, keys: `"mtu":1451,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]]}`, want: "mtu 1451 is more than the 1450 that fit through the tunnel"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.daemon != nil {
				if err := tc.daemon(dir); err != nil {
					t.Fatal(err)
				}
			}
			c, err := parseConf([]byte(`{"type":"overlay-cni","name":"second","runDir":"` + dir + `",` + tc.keys + `}`))
			if err != nil {
				t.Fatal(err)
			}
			n, err := c.settings(0)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if err == nil && n.bridge.MTU != tc.mtu {
				t.Errorf("MTU %d, want %d", n.bridge.MTU, tc.mtu)
			}
		})
	}
}

func TestHostPortsOfAFamilyThatThePodLacks(t *testing.T) {
	const v4, v6 = "10.244.1.1", "fd44:1::1"
	for _, tc := range []struct{ hostIP, gateways, want string }{
		{"", v4, ""}, {"", v6, ""}, {"0.0.0.0", v4, ""}, {"::", v6, ""}, {"::", v4 + " " + v6, ""}, {"192.0.2.1", v6 + " " + v4, ""}, {"fd00::5", v6, ""},
		{"::", v4, "host port [::]:8080/tcp is for IPv6 alone, and the pod gets no such address: leave hostIP out"},
		{"fd00::5", v4, "host port [fd00::5]:8080/tcp is for IPv6 alone"},
		{"0.0.0.0", v6, "host port 0.0.0.0:8080/tcp is for IPv4 alone"},
		{"192.0.2.1", v6, "host port 192.0.2.1:8080/tcp is for IPv4 alone"},
	} {
		t.Run(tc.hostIP+" "+tc.gateways, func(t *testing.T) {
			mappings, err := hostport.Parse([]byte(`[{"hostPort":8081,"containerPort":81},{"hostPort":8080,"containerPort":80,"hostIP":"` + tc.hostIP + `"}]`))
			if err != nil {
				t.Fatal(err)
			}
			var addrs []netip.Addr
			for a := range strings.FieldsSeq(tc.gateways) {
				addrs = append(addrs, netip.MustParseAddr(a))
			}
			err = checkFamilies(mappings, addrs)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

// FuzzConf gives ADD's configuration anything. It may refuse with a CNI error,
// or know at least one gateway.
func FuzzConf(f *testing.F) {
	f.Add([]byte(`{"type":"overlay-cni","ipam":{"ranges":[[{"subnet":"10.244.1.0/24","exclude":["10.244.1.4/30","10.244.1.9"]}]]}}`))
	f.Add([]byte(`{"type":"overlay-cni","bridge":"b","mtu":1400,"ipam":{"ranges":[[{"subnet":"fd00::/64","rangeStart":"fd00::5"}]],"routes":[{"dst":"fd01::/48"}]}}`))
	f.Add([]byte(`{"type":"overlay-cni","runDir":"/nowhere"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConf(data)
		if err == nil && len(c.IPAM.Ranges) == 0 {
			return // it would ask the daemon
		}
		var n settings
		if err == nil {
			n, err = c.settings(0)
		}
		var reported *types.Error
		switch {
		case err != nil && !errors.As(err, &reported):
			t.Errorf("not a CNI error: %v", err)
		case err == nil && len(n.bridge.Gateways) == 0:
			t.Error("accepted without a gateway")
		}
	})
}

// FuzzRequest gives the runtime's arguments anything. What is accepted has to
// be addresses and a MAC address that an interface can have.
func FuzzRequest(f *testing.F) {
	f.Add("IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;IP=10.244.1.7,fd00::7;MAC=02:00:00:00:00:01", []byte(`{}`))
	f.Add(";;=;", []byte(`{"runtimeConfig":{"ips":["10.244.1.7/24"],"mac":"02:00:00:00:00:02"},"args":{"cni":{"ips":["fd00::1"]}}}`))
	f.Fuzz(func(t *testing.T, args string, data []byte) {
		c, err := parseConf(data)
		if err != nil {
			return
		}
		r, err := c.request(args)
		if err != nil {
			return
		}
		for _, a := range r.addresses {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				t.Errorf("address %v", a)
			}
		}
		if r.mac != nil && (len(r.mac) != 6 || r.mac[0]&1 != 0) {
			t.Errorf("MAC address %v", r.mac)
		}
	})
}

// The daemon's antiSpoofing is for the pods of all networks, on whatever bridge.
func TestDaemonExemptsTheNetworksOfAllBridges(t *testing.T) {
	for _, bridge := range []string{"cni0", "cni1"} {
		for _, unguarded := range []bool{false, true} {
			dir := t.TempDir()
			c, err := parseConf([]byte(`{"type":"overlay-cni","name":"second","runDir":"` + dir + `","bridge":"` + bridge + `","ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]]}}`))
			if err != nil {
				t.Fatal(err)
			}
			state := nodestate.State{Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, MTU: 1450, Bridge: "cni0", Unguarded: unguarded}
			if _, err := nodestate.Sync(c.stateDir(), state); err != nil {
				t.Fatal(err)
			}
			if n, err := c.settings(0); err != nil || n.unguarded != unguarded {
				t.Errorf("bridge %s: got %v, %v; want %v", bridge, n.unguarded, err, unguarded)
			}
		}
	}
}
