package hosts

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/plugin"
)

// valid is a GC's configuration that keeps the pods with these ids.
func (p *pluginHost) valid(ids ...string) []byte {
	list := []map[string]string{}
	for _, id := range ids {
		list = append(list, map[string]string{"containerID": id, "ifname": "eth0"})
	}
	return p.with(map[string]any{"cni.dev/valid-attachments": list})
}

func TestGCRemovesAllButTheValid(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		p := newPlugin(t, m.subnets...)
		kept, _ := p.add(t, "kept")
		want := p.snapshot(t)
		p.add(t, "gone")
		p.add(t, "lost-record")
		p.add(t, "damaged")
		p.add(t, "lost-all")
		for id, damage := range map[string]func(path string) error{
			"lost-record": os.Remove,
			"lost-all":    os.Remove,
			"damaged":     func(path string) error { return os.Truncate(path, 0) },
		} {
			if err := damage(p.record(id)); err != nil {
				t.Fatal(err)
			}
		}
		p.unplug(t, "damaged") // else it may be another network's, in use
		if err := os.Remove(filepath.Join(p.host.RunDir(), "addresses", m.gateways()[0].Next().Next().Next().Next().Next().String())); err != nil {
			t.Fatal(err)
		}
		out, cniErr := p.run(t, invocation{command: "GC", stdin: p.valid("kept", "never-seen")})
		if cniErr != nil || out != "" {
			t.Fatalf("%v, printed %q", cniErr, out)
		}
		if got := p.snapshot(t); got != want {
			t.Errorf("left:\n%s\nwant:\n%s", got, want)
		}
		for _, gateway := range m.gateways() {
			if _, err := probe.Ping(withPatience(t), kept, gateway); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestGCLeavesOtherNetworksAlone(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	p.add(t, "pod")
	want := p.snapshot(t)
	other := p.with(map[string]any{"name": "other", "cni.dev/valid-attachments": []string{}})
	if _, cniErr := p.run(t, invocation{command: "GC", stdin: other}); cniErr != nil {
		t.Fatal(cniErr)
	}
	if got := p.snapshot(t); got != want {
		t.Errorf("left:\n%s\nwant:\n%s", got, want)
	}
}

func TestGCWithoutAListIsRefused(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	p.add(t, "pod")
	want := p.snapshot(t)
	_, cniErr := p.run(t, invocation{command: "GC"})
	if cniErr == nil || !strings.Contains(cniErr.Msg, "cni.dev/valid-attachments is missing") {
		t.Errorf("got %v", cniErr)
	}
	if got := p.snapshot(t); got != want {
		t.Errorf("left:\n%s\nwant:\n%s", got, want)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/30")
	status := func(stdin []byte) *types.Error {
		out, cniErr := p.run(t, invocation{command: "STATUS", stdin: stdin})
		if cniErr == nil && out != "" {
			t.Errorf("printed %q", out)
		}
		return cniErr
	}
	if cniErr := status(nil); cniErr != nil {
		t.Errorf("with a free address: %v", cniErr)
	}
	p.add(t, "pod")
	if cniErr := status(nil); cniErr == nil || cniErr.Code != types.ErrPluginNotAvailable || !strings.Contains(cniErr.Msg, "no address left in 10.244.1.0/30: 1 of 1 are in use") {
		t.Errorf("with no free address: %v", cniErr)
	}
	if cniErr := status(p.with(map[string]any{"ipam": nil})); cniErr == nil || cniErr.Code != types.ErrPluginNotAvailable || !strings.Contains(cniErr.Msg, "overlayd has not published") {
		t.Errorf("without a daemon: %v", cniErr)
	}
	if cniErr := status(p.with(map[string]any{"mtu": 1})); cniErr == nil || cniErr.Code != types.ErrInvalidNetworkConfig {
		t.Errorf("with a wrong configuration: %v", cniErr)
	}
}

func TestFixedAddressAndMAC(t *testing.T) {
	t.Parallel()
	const mac = "02:00:00:00:00:07"
	for name, ask := range map[string]func(p *pluginHost) invocation{
		"CNI_ARGS": func(p *pluginHost) invocation {
			return invocation{args: "IgnoreUnknown=1;IP=fd00:244:1::77,10.244.1.77;MAC=" + mac}
		},
		"capabilities": func(p *pluginHost) invocation {
			return invocation{stdin: p.with(map[string]any{"runtimeConfig": map[string]any{"ips": []string{"10.244.1.77/24", "fd00:244:1::77"}, "mac": mac}})}
		},
		"args": func(p *pluginHost) invocation {
			return invocation{args: "MAC=" + mac, stdin: p.with(map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{"10.244.1.77", "fd00:244:1::77"}}}})}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")
			ns := sandboxtest.NewNetns(t)
			call := ask(p)
			call.command, call.netns = "ADD", ns.Path()
			out, cniErr := p.run(t, call)
			if cniErr != nil {
				t.Fatal(cniErr)
			}
			var r types100.Result
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(addrOf(r.IPs[0].Address.IP), addrOf(r.IPs[1].Address.IP)); got != "10.244.1.77 fd00:244:1::77" {
				t.Errorf("addresses %s", got)
			}
			pod := netlinkIn(t, ns)
			if link, err := pod.LinkByName("eth0"); err != nil || link.Attrs().HardwareAddr.String() != mac {
				t.Errorf("MAC address: %v, %v", link, err)
			}
			before := p.snapshot(t)
			call.id = "second"
			call.netns = sandboxtest.NewNetns(t).Path()
			_, cniErr = p.run(t, call)
			if cniErr == nil || cniErr.Code != plugin.CodeAddressTaken || !strings.HasSuffix(cniErr.Msg, "is reserved by attachment pod@eth0") {
				t.Errorf("the second: %v", cniErr)
			}
			if after := p.snapshot(t); after != before {
				t.Errorf("the second left something:\n%s", after)
			}
		})
	}
}

func TestFixedAddressThatCannotBeGiven(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	ns := sandboxtest.NewNetns(t)
	before := p.snapshot(t)
	for ask, want := range map[string]string{
		"IP=10.244.2.7":                "10.244.2.7 was asked for, but pod addresses come from 10.244.1.0/24",
		"IP=10.244.1.1":                "10.244.1.1 was asked for", // the gateway
		"IP=10.244.1.0":                "10.244.1.0 was asked for", // the network's own
		"IP=fd00::1":                   "fd00::1 was asked for",
		"IP=10.244.1.7,10.244.1.8":     "both 10.244.1.7 and 10.244.1.8 were asked for",
		"IP=ten":                       `"ten", is not an IP address`,
		"MAC=01:00:00:00:00:01":        "is a group address",
		"MAC=zz":                       `"zz", is not one such as`,
		"MAC=00:00:00:00:00:00;IP=::1": "all zeros",
	} {
		_, cniErr := p.run(t, invocation{command: "ADD", netns: ns.Path(), args: ask})
		if cniErr == nil || !strings.Contains(cniErr.Msg, want) {
			t.Errorf("%s: got %v, want %s", ask, cniErr, want)
		}
		if after := p.snapshot(t); after != before {
			t.Errorf("%s: left behind:\n%s", ask, after)
		}
	}
}

// TestChained has plugins before and after this one in the list.
func TestChained(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	ns := sandboxtest.NewNetns(t)
	prev := types100.Result{
		CNIVersion: "1.1.0",
		Interfaces: []*types100.Interface{{Name: "net9", Sandbox: ns.Path(), Mac: "02:00:00:00:00:09"}},
		IPs:        []*types100.IPConfig{{Interface: types100.Int(0), Address: *ipNet("192.0.2.9/24")}},
		DNS:        types.DNS{Nameservers: []string{"192.0.2.53"}},
	}
	out, cniErr := p.run(t, invocation{command: "ADD", netns: ns.Path(), stdin: p.with(map[string]any{
		"prevResult": prev, "dns": map[string]any{"nameservers": []string{"198.51.100.53"}},
	})})
	if cniErr != nil {
		t.Fatal(cniErr)
	}
	var r types100.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Interfaces) != 4 || r.Interfaces[0].Name != "net9" || len(r.IPs) != 2 || *r.IPs[0].Interface != 0 || *r.IPs[1].Interface != 3 || r.DNS.Nameservers[0] != "192.0.2.53" {
		t.Errorf("%s", out)
	}
	if _, cniErr := p.run(t, invocation{command: "CHECK", netns: ns.Path(), stdin: p.with(map[string]any{"prevResult": r})}); cniErr != nil {
		t.Error(cniErr)
	}
	before := p.snapshot(t)
	if _, cniErr := p.run(t, invocation{command: "ADD", id: "other", netns: ns.Path(), ifName: "net1", stdin: p.with(map[string]any{"prevResult": "nonsense"})}); cniErr == nil {
		t.Error("a prevResult that is none is accepted")
	}
	if after := p.snapshot(t); after != before {
		t.Errorf("left behind:\n%s", after)
	}
}
