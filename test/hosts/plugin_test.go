package hosts

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types020 "github.com/containernetworking/cni/pkg/types/020"
	types040 "github.com/containernetworking/cni/pkg/types/040"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/plugin"
)

func TestPodsOfOneHostWithoutADaemon(t *testing.T) {
	t.Parallel()
	eachModeAndNetfilter(t, func(t *testing.T, m mode, n netfilter) {
		p := newPlugin(t, m.subnets...)
		n.set(t, p)
		ctx := withPatience(t)
		a, _ := p.add(t, "a")
		_, out := p.add(t, "b")
		var result types100.Result
		if err := json.Unmarshal([]byte(out), &result); err != nil {
			t.Fatal(err)
		}
		if len(result.IPs) != len(m.subnets) {
			t.Fatalf("%d addresses for %v", len(result.IPs), m.subnets)
		}
		for i, ip := range result.IPs {
			addr, gateway := addrOf(ip.Address.IP), addrOf(ip.Gateway)
			if subnet := netip.MustParsePrefix(m.subnets[i]); !subnet.Contains(addr) || gateway != subnet.Addr().Next() {
				t.Errorf("address %s by %s is not of %s", addr, gateway, subnet)
			}
			// More than once: after the first packet the host may tell the
			// pod of a shorter way, which there isn't.
			for _, to := range []netip.Addr{addr, gateway, addr, addr} {
				if _, err := probe.Ping(ctx, a, to); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func TestResultSaysWhatIsInTheKernel(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			p := newPlugin(t, m.subnets...)
			ns := sandboxtest.NewNetns(t)
			out, cniErr := p.run(t, invocation{
				command: "ADD", netns: ns.Path(), ifName: "net1",
				args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=x",
			})
			if cniErr != nil {
				t.Fatal(cniErr)
			}
			var r types100.Result
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatal(err)
			}
			if r.CNIVersion != "1.1.0" || len(r.Interfaces) != 3 {
				t.Fatalf("%s", out)
			}
			pod := netlinkIn(t, ns)
			for i, h := range []*netlink.Handle{p.host.Handle(), p.host.Handle(), pod} {
				want := r.Interfaces[i]
				// The kernel updates the operational state a moment later (linkwatch).
				err := probe.Eventually(withPatience(t), func(context.Context) error {
					link, err := h.LinkByName(want.Name)
					if err != nil {
						return fmt.Errorf("interface %d, %s: %w", i, want.Name, err)
					}
					if a := link.Attrs(); a.HardwareAddr.String() != want.Mac || a.MTU != want.Mtu || a.OperState != netlink.OperUp {
						return fmt.Errorf("%s is %s, MTU %d, %s; the result says %s, MTU %d", a.Name, a.HardwareAddr, a.MTU, a.OperState, want.Mac, want.Mtu)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
			if r.Interfaces[0].Name != "cni0" || r.Interfaces[2].Name != "net1" || r.Interfaces[2].Sandbox != ns.Path() {
				t.Errorf("interfaces: %s", out)
			}
			port, err := p.host.Handle().LinkByName(r.Interfaces[1].Name)
			if err != nil {
				t.Fatal(err)
			}
			if port.Attrs().Alias != "shop/cart-0" {
				t.Errorf("the alias is %q, want namespace/name", port.Attrs().Alias)
			}
		})
	}
}

// TestPortsAreIsolatedUnlessTheBridgeSwitchesServices: with br_netfilter the
// bridge itself delivers what the firewall sent to a pod, which it doesn't do
// between isolated ports.
func TestPortsAreIsolatedUnlessTheBridgeSwitchesServices(t *testing.T) {
	t.Parallel()
	for _, n := range netfilters(t) {
		t.Run(n.name, func(t *testing.T) {
			p := newPlugin(t, "10.244.1.0/24")
			n.set(t, p)
			p.add(t, "pod")
			port, err := p.host.Handle().LinkByName(attachment.Owner{ContainerID: "pod", IfName: "eth0"}.Key().HostName())
			if err != nil {
				t.Fatal(err)
			}
			flags, err := p.host.Handle().LinkGetProtinfo(port)
			if err != nil || flags.Isolated == n.on || flags.Hairpin != n.on {
				t.Errorf("the bridge port has isolated %t and hairpin %t, %v", flags.Isolated, flags.Hairpin, err)
			}
		})
	}
}

func TestResultInTheVersionAskedFor(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")
	for version, parse := range map[string]func([]byte) (types.Result, error){
		"0.3.1": types040.NewResult, "0.4.0": types040.NewResult, "1.0.0": types100.NewResult, "1.1.0": types100.NewResult,
	} {
		t.Run(version, func(t *testing.T) {
			ns := sandboxtest.NewNetns(t)
			conf := p.with(map[string]any{"cniVersion": version})
			out, cniErr := p.run(t, invocation{command: "ADD", id: version, netns: ns.Path(), stdin: conf})
			if cniErr != nil {
				t.Fatal(cniErr)
			}
			r, err := parse([]byte(out))
			if err != nil || r.Version() != version {
				t.Errorf("%v in %s", err, out)
			}
			if version == "0.3.1" {
				return // has no CHECK
			}
			check := p.with(map[string]any{"cniVersion": version, "prevResult": json.RawMessage(out)})
			if out, cniErr := p.run(t, invocation{command: "CHECK", id: version, netns: ns.Path(), stdin: check}); cniErr != nil || out != "" {
				t.Errorf("CHECK of what is right: %v, printed %q", cniErr, out)
			}
		})
	}
	_, cniErr := p.run(t, invocation{command: "ADD", netns: "/nowhere", stdin: p.with(map[string]any{"cniVersion": types020.ImplementedSpecVersion})})
	if cniErr == nil || cniErr.Code != types.ErrIncompatibleCNIVersion {
		t.Errorf("version 0.2.0: %v", cniErr)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	out, cniErr := p.run(t, invocation{command: "VERSION", stdin: []byte(`{"cniVersion":"1.0.0"}`)})
	var v struct {
		Supported []string `json:"supportedVersions"`
	}
	if cniErr != nil || json.Unmarshal([]byte(out), &v) != nil || strings.Join(v.Supported, " ") != "0.3.1 0.4.0 1.0.0 1.1.0" {
		t.Errorf("%v %s", cniErr, out)
	}
}

// TestDelOfWhateverIsLeft removes parts of an attachment before DEL. DEL must
// remove the rest, succeed, and print nothing.
func TestDelOfWhateverIsLeft(t *testing.T) {
	t.Parallel()
	deletePort := func(t *testing.T, p *pluginHost) {
		links, err := p.host.Handle().LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Type() == "veth" && l.Attrs().Alias == "pod" {
				if err := p.host.Handle().LinkDel(l); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	removeAll := func(parts ...string) func(*testing.T, *pluginHost) {
		return func(t *testing.T, p *pluginHost) {
			for _, part := range parts {
				if err := os.RemoveAll(filepath.Join(p.host.RunDir(), part)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, take := range map[string]func(*testing.T, *pluginHost){
		"nothing is missing":      func(*testing.T, *pluginHost) {},
		"the veth pair":           deletePort,
		"the record":              removeAll("attachments"),
		"the reservation":         removeAll("addresses"),
		"the whole run directory": removeAll(""),
		"everything": func(t *testing.T, p *pluginHost) {
			deletePort(t, p)
			removeAll("")(t, p)
			link, err := p.host.Handle().LinkByName("cni0")
			if err != nil {
				t.Fatal(err)
			}
			if err := p.host.Handle().LinkDel(link); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")
			before := p.snapshot(t)
			p.add(t, "pod")
			if p.snapshot(t) == before {
				t.Fatal("the snapshot doesn't show what ADD did")
			}
			take(t, p)
			for range 2 {
				p.del(t, "pod")
			}
			if err := os.MkdirAll(p.host.RunDir(), 0o755); err != nil {
				t.Fatal(err)
			}
			if after := p.snapshot(t); after != before {
				t.Errorf("left behind:\n%s\nbefore ADD:\n%s", after, before)
			}
		})
	}
}

func TestDelWorksWithAConfigurationThatAddRefuses(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	before := p.snapshot(t)
	ns, _ := p.add(t, "pod")
	bad := p.with(map[string]any{"ipam": map[string]any{"type": "dhcp", "ranges": "all"[:0]}, "mtu": 1, "bridge": "a/b"})
	bad = []byte(strings.Replace(string(bad), `"ranges":""`, `"ranges":[[{"subnet":"nonsense"}]]`, 1))
	if _, cniErr := p.run(t, invocation{command: "ADD", id: "other", netns: ns.Path(), stdin: bad}); cniErr == nil {
		t.Fatal("ADD accepts it")
	}
	if out, cniErr := p.run(t, invocation{command: "DEL", stdin: bad}); cniErr != nil || out != "" {
		t.Errorf("%v, printed %q", cniErr, out)
	}
	if after := p.snapshot(t); after != before {
		t.Errorf("left behind:\n%s", after)
	}
}

// TestAddAfterAnAddThatWasNeverDeleted is a runtime that lost the first result.
func TestAddAfterAnAddThatWasNeverDeleted(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	ns, _ := p.add(t, "pod")
	if _, cniErr := p.run(t, invocation{command: "ADD", netns: ns.Path()}); cniErr != nil {
		t.Fatal(cniErr)
	}
	if n := strings.Count(p.snapshot(t), "/addresses/"); n != 1 {
		t.Errorf("%d addresses are reserved:\n%s", n, p.snapshot(t))
	}
	if _, err := probe.Ping(withPatience(t), ns, netip.MustParseAddr("10.244.1.1")); err != nil {
		t.Error(err)
	}
}

func TestCheckSaysWhatDiffers(t *testing.T) {
	t.Parallel()
	inPod := func(do func(h *netlink.Handle, l netlink.Link) error) func(*testing.T, *podUnderTest) {
		return func(t *testing.T, u *podUnderTest) {
			h := netlinkIn(t, u.ns)
			l, err := h.LinkByName("eth0")
			if err == nil {
				err = do(h, l)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	onHost := func(do func(h *netlink.Handle, bridge, port netlink.Link) error) func(*testing.T, *podUnderTest) {
		return func(t *testing.T, u *podUnderTest) {
			h := u.p.host.Handle()
			bridge, err := h.LinkByName("cni0")
			if err != nil {
				t.Fatal(err)
			}
			port, err := h.LinkByName(u.result.Interfaces[1].Name)
			if err == nil {
				err = do(h, bridge, port)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(*testing.T, *podUnderTest)
		want   string
	}{
		"pod's interface down": {inPod(func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) }), "eth0 is down"},
		"pod's interface gone": {inPod(func(h *netlink.Handle, l netlink.Link) error { return h.LinkDel(l) }), "the pod has no interface eth0"},
		"pod's MTU":            {inPod(func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1300) }), "eth0 has MTU 1300, not 1500"},
		"pod's address": {inPod(func(h *netlink.Handle, l netlink.Link) error {
			return h.AddrDel(l, &netlink.Addr{IPNet: ipNet("10.244.1.2/32")})
		}), "eth0 lacks address 10.244.1.2"},
		"pod's route": {inPod(func(h *netlink.Handle, l netlink.Link) error {
			return h.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet("::/0")})
		}), "eth0 lacks the route to ::/0 via fd00:244:1::1"},
		"port off the bridge": {onHost(func(h *netlink.Handle, _, port netlink.Link) error { return h.LinkSetNoMaster(port) }), "is not a port of cni0"},
		"port down":           {onHost(func(h *netlink.Handle, _, port netlink.Link) error { return h.LinkSetDown(port) }), "is down"},
		"bridge gone":         {onHost(func(h *netlink.Handle, bridge, _ netlink.Link) error { return h.LinkDel(bridge) }), "bridge cni0 is gone"},
		"bridge's address": {onHost(func(h *netlink.Handle, bridge, _ netlink.Link) error {
			return h.AddrDel(bridge, &netlink.Addr{IPNet: ipNet("10.244.1.1/24")})
		}), "bridge cni0 needs: add address to cni0: 10.244.1.1/24"},
		"record": {func(t *testing.T, u *podUnderTest) {
			if err := os.RemoveAll(filepath.Join(u.p.host.RunDir(), "attachments")); err != nil {
				t.Fatal(err)
			}
		}, "there is no record of the attachment"},
		"record empty": {func(t *testing.T, u *podUnderTest) {
			if err := os.Truncate(u.p.record("pod"), 0); err != nil {
				t.Fatal(err)
			}
		}, "the record of the attachment can't be used: nothing is recorded yet"},
		"record of a newer version": {func(t *testing.T, u *podUnderTest) {
			if err := os.WriteFile(u.p.record("pod"), []byte(`{"version":99}`), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "attachment record of a newer version of overlay-cni: format 99, while this version knows formats up to 1"},
		"reservation": {func(t *testing.T, u *podUnderTest) {
			if err := os.Remove(filepath.Join(u.p.host.RunDir(), "addresses", "10.244.1.2")); err != nil {
				t.Fatal(err)
			}
		}, "the reservation of address 10.244.1.2 is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newPodUnderTest(t)
			if cniErr := u.check(t); cniErr != nil {
				t.Fatalf("nothing was changed yet: %v", cniErr)
			}
			tc.change(t, u)
			cniErr := u.check(t)
			if cniErr == nil || cniErr.Code != plugin.CodeCheckFailed || !strings.Contains(cniErr.Msg, tc.want) {
				t.Errorf("got  %v\nwant %s", cniErr, tc.want)
			}
		})
	}
}

// TestCheckOfOthersAddresses: CHECK ignores addresses of a chain's result that
// belong to no interface.
func TestCheckOfOthersAddresses(t *testing.T) {
	t.Parallel()
	u := newPodUnderTest(t)
	const list = `"ips": [`
	if !strings.Contains(u.raw, list) {
		t.Fatalf("no %s in %s", list, u.raw)
	}
	u.raw = strings.Replace(u.raw, list, list+`{"address":"192.0.2.9/24","gateway":"192.0.2.1"},`, 1)
	if cniErr := u.check(t); cniErr != nil {
		t.Error(cniErr)
	}
}
