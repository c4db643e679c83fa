package hosts

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	nftables "github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/guard"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/plugin"
)

// portLines are the elements of the host ports' table, a line each. What
// belongs to the bridge, and not to a pod, is left out.
func (p *pluginHost) portLines(t *testing.T) []string {
	t.Helper()
	var table *nftables.Table
	err := p.host.Netns().Do(func() error {
		c, err := nftables.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		table, _, err = c.Read(nftables.ID{Family: nftables.Inet, Name: hostport.TableName})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if table == nil {
		return nil
	}
	var lines []string
	for _, e := range table.Elements {
		if e.Set != "bridges" {
			lines = append(lines, fmt.Sprintf("port %s %x %x", e.Set, e.Key, e.Data))
		}
	}
	return lines
}

// guardLines are the elements of the guard's table that pods don't share.
func (p *pluginHost) guardLines(t *testing.T) []string {
	t.Helper()
	var table *nftables.Table
	var bridges []net.HardwareAddr
	err := p.host.Netns().Do(func() error {
		c, err := nftables.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		table, _, err = c.Read(guard.Table())
		links, listErr := net.Interfaces()
		for _, l := range links {
			bridges = append(bridges, l.HardwareAddr)
		}
		return errors.Join(err, listErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	if table == nil {
		return nil
	}
	// The bridge may be gone.
	bridges = append(bridges, bridge.Spec{Name: "cni0", Gateways: p.gateways()}.Want().MAC)
	var lines []string
	for _, e := range table.Elements {
		shared := e.Set == "linklocals" && strings.HasSuffix(e.Key, "\x00\x01") ||
			e.Set == "macs" && slices.ContainsFunc(bridges, func(m net.HardwareAddr) bool { return string(m) == e.Key })
		if !shared {
			lines = append(lines, fmt.Sprintf("guard %s %x", e.Set, e.Key))
		}
	}
	return lines
}

// ports is a configuration with the capability's arguments.
func (p *pluginHost) ports(mappings ...map[string]any) []byte {
	return p.with(map[string]any{"runtimeConfig": map[string]any{"portMappings": mappings}})
}

func TestHostPorts(t *testing.T) {
	t.Parallel()
	eachModeAndNetfilter(t, func(t *testing.T, m mode, n netfilter) {
		p := newPlugin(t, m.subnets...)
		n.set(t, p)
		other, _ := p.add(t, "other")
		before := p.snapshot(t)
		ctx := withPatience(t)
		pod := sandboxtest.NewNetns(t)
		web := map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
		call := invocation{
			command: "ADD", netns: pod.Path(), args: "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", stdin: p.ports(web),
		}
		if _, cniErr := p.run(t, call); cniErr != nil {
			t.Fatal(cniErr)
		}
		for _, s := range m.subnets {
			gateway := netip.MustParsePrefix(s).Addr().Next()
			server, err := probe.ServeMirror(pod, netip.AddrPortFrom(gateway.Next().Next(), 80))
			if err != nil {
				t.Fatal(err)
			}
			// From the host itself, from another pod, and from the pod itself.
			for _, from := range []*sandbox.Netns{p.host.Netns(), other, pod} {
				if _, err := probe.TCP(ctx, from, netip.AddrPortFrom(gateway, 8080)); err != nil {
					t.Error(err)
				}
			}
			if err := server.Close(); err != nil {
				t.Error(err)
			}
		}
		taken := p.snapshot(t)
		call.id, call.netns = "second", sandboxtest.NewNetns(t).Path()
		_, cniErr := p.run(t, call)
		if cniErr == nil || cniErr.Code != plugin.CodePortTaken || !strings.Contains(cniErr.Msg, "8080/tcp") || !strings.Contains(cniErr.Msg, "pod shop/web") {
			t.Errorf("the second: %v", cniErr)
		}
		if after := p.snapshot(t); after != taken {
			t.Errorf("the second left something:\n%s\nbefore:\n%s", after, taken)
		}
		p.del(t, "pod")
		if after := p.snapshot(t); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
	})
}

// TestHostPortFromOutside connects from another machine to the host.
func TestHostPortFromOutside(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		l := newLab(t, m.set)
		h := addHost(t, l, "host")
		p := newPluginOn(h, m.subnets...)
		pod := sandboxtest.NewNetns(t)
		call := invocation{command: "ADD", netns: pod.Path(), stdin: p.ports(map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"})}
		if _, cniErr := p.run(t, call); cniErr != nil {
			t.Fatal(cniErr)
		}
		for i, gateway := range m.gateways() {
			server, err := probe.ServeMirror(pod, netip.AddrPortFrom(gateway.Next(), 80))
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			seen, err := probe.TCP(withPatience(t), l.Switch(), netip.AddrPortFrom(h.Addresses()[i], 8080))
			if err != nil {
				t.Fatal(err)
			}
			if client := l.Segments()[i].Addr(); seen.Source.Addr() != client {
				t.Errorf("the pod sees %s call, not %s", seen.Source, client)
			}
		}
	})
}

func TestPortMappingsThatAreNone(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	ns := sandboxtest.NewNetns(t)
	before := p.snapshot(t)
	for want, mapping := range map[string]map[string]any{
		"portMappings[0]":            {"hostPort": 70000, "containerPort": 80},
		`"icmp"`:                     {"hostPort": 80, "containerPort": 80, "protocol": "icmp"},
		"runtimeConfig.portMappings": {"hostPort": "80"},
	} {
		_, cniErr := p.run(t, invocation{command: "ADD", netns: ns.Path(), stdin: p.ports(mapping)})
		if cniErr == nil || !strings.Contains(cniErr.Msg, want) {
			t.Errorf("got %v, want %s", cniErr, want)
		}
		if after := p.snapshot(t); after != before {
			t.Errorf("left behind:\n%s", after)
		}
	}
}
