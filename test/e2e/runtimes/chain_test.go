package runtimes

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/google/go-cmp/cmp"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Settings that the plugins behind ours make, and that nothing has by itself.
const (
	tunedMAC     = "02:00:00:00:77:01"
	tunedBacklog = "577"
)

// chained is the shipped configuration with the reference plugins around ours,
// which leaves to them what they are for. They are installed, too.
func chained(t *testing.T, version string, before, after []any) conflist {
	t.Helper()
	c := shipped(t).withVersion(version)
	c.plugin()["capabilities"] = map[string]bool{"ips": true}
	own := c["plugins"].([]any)
	c["plugins"] = append(append(before, own...), after...)
	check(t, os.MkdirAll(binDir, 0o755))
	for _, p := range append(before, after...) {
		run(t, "cp", filepath.Join("/usr/lib/cni", p.(map[string]any)["type"].(string)), binDir)
	}
	return c
}

// behind are the reference plugins that are made to come after one like ours.
func behind() []any {
	return []any{
		map[string]any{"type": "tuning", "mac": tunedMAC, "sysctl": map[string]string{"net.core.somaxconn": tunedBacklog}},
		map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		map[string]any{"type": "bandwidth", "capabilities": map[string]bool{"bandwidth": true}},
	}
}

// capabilities are for portmap and bandwidth.
const chainCapabilities = `{"portMappings":[{"hostPort":8081,"containerPort":8080,"protocol":"tcp"}],` +
	`"bandwidth":{"ingressRate":80000000,"ingressBurst":8000000,"egressRate":80000000,"egressBurst":8000000}}`

// leavesNoFile is leavesNothing with the reference plugins' own files.
func (h *host) leavesNoFile(t *testing.T) func() {
	t.Helper()
	const dir = "/run/cni"
	nothing, before := h.leavesNothing(t), files(t, dir)
	return func() {
		t.Helper()
		nothing()
		if diff := cmp.Diff(before, files(t, dir)); diff != "" {
			t.Errorf("files (- before, + after):\n%s", diff)
		}
	}
}

// withoutIP6tables runs do on a host that lacks the program: where it is there,
// portmap's CHECK asks for IPv6 rules that its ADD doesn't make for pods with
// IPv4 (containernetworking/plugins issue 819; in version 1.1.1).
func withoutIP6tables(t *testing.T, do func()) {
	t.Helper()
	dir, before := t.TempDir(), os.Getenv("PATH")
	real, err := exec.LookPath("iptables")
	check(t, err)
	check(t, os.Symlink(real, filepath.Join(dir, "iptables")))
	check(t, os.Setenv("PATH", dir))
	defer func() { check(t, os.Setenv("PATH", before)) }()
	do()
}

// resultOf is what cnitool printed, which is the last plugin's result.
func resultOf(t *testing.T, version, out string) *types100.Result {
	t.Helper()
	r, err := create.Create(version, []byte(out))
	check(t, err)
	latest, err := types100.NewResultFromResult(r)
	check(t, err)
	return latest
}

// TestChainBeforeReferencePlugins has Debian's plugins work on our result.
func TestChainBeforeReferencePlugins(t *testing.T) {
	for _, v := range []string{"0.4.0", "1.0.0"} {
		t.Run("version "+v, func(t *testing.T) {
			h := newHost(t, chained(t, v, nil, behind()))
			done := h.leavesNoFile(t)
			path := newPodNetns(t, "pod")
			tool := tool{netns: path, capabilities: chainCapabilities}
			for _, end := range []string{"del", "gc"} {
				result := resultOf(t, v, tool.must(t, "add"))
				if n := len(result.IPs); n != 1 {
					t.Fatalf("%d addresses, expected 1", n)
				}
				ns, err := sandbox.OpenNetns(path)
				check(t, err)
				h.wantChained(t, ns)
				check(t, ns.Close())
				withoutIP6tables(t, func() { tool.must(t, "check") })
				tool.must(t, end)
				done()
			}
			tool.must(t, "del") // of what is gone
			done()
		})
	}
}

// wantChained looks for what each plugin of behind does.
func (h *host) wantChained(t *testing.T, pod *sandbox.Netns) {
	t.Helper()
	if got := strings.TrimSpace(run(t, "ip", "netns", "exec", pod.Name(), "cat", "/proc/sys/net/core/somaxconn")); got != tunedBacklog {
		t.Errorf("tuning: net.core.somaxconn is %s, expected %s", got, tunedBacklog)
	}
	if out := run(t, "ip", "-n", pod.Name(), "link", "show", "eth0"); !strings.Contains(out, tunedMAC) {
		t.Errorf("tuning: expected MAC address %s: %s", tunedMAC, out)
	}
	if out := run(t, "tc", "qdisc", "show"); !strings.Contains(out, "tbf") || !strings.Contains(out, "ingress") {
		t.Errorf("bandwidth: expected queues (tbf, ingress): %s", out)
	}
	server, err := probe.ServeMirror(pod, netip.AddrPortFrom(netip.IPv4Unspecified(), podPort))
	check(t, err)
	defer server.Close()
	for _, from := range []*sandbox.Netns{h.client, h.ns} {
		if _, err := probe.TCP(t.Context(), from, netip.AddrPortFrom(hostAddr(), 8081)); err != nil {
			t.Errorf("portmap: %v", err)
		}
	}
}

// TestChainBeforeFirewall is apart from the others, whose CHECK it would fail:
// it wants ip6tables.
func TestChainBeforeFirewall(t *testing.T) {
	for _, v := range []string{"0.4.0", "1.0.0"} {
		t.Run("version "+v, func(t *testing.T) {
			h := newHost(t, chained(t, v, nil, []any{map[string]any{"type": "firewall", "backend": "iptables"}}))
			done := h.leavesNoFile(t)
			tool := tool{netns: newPodNetns(t, "pod")}
			address := resultOf(t, v, tool.must(t, "add")).IPs[0].Address.String()
			if out := run(t, "iptables", "-S", "CNI-FORWARD"); !strings.Contains(out, "-d "+address) {
				t.Errorf("expected rules of %s: %s", address, out)
			}
			tool.must(t, "check")
			tool.must(t, "del")
			done()
		})
	}
}

// TestChainBeforeSourceBasedRouting: sbr moves the pod's routes to a table of their
// own, where it adds them one by one, and by which its answers leave.
func TestChainBeforeSourceBasedRouting(t *testing.T) {
	for _, v := range []string{"0.4.0", "1.0.0"} {
		t.Run("version "+v, func(t *testing.T) {
			c := chained(t, v, nil, []any{map[string]any{"type": "sbr"}})
			h := newHost(t, c.dualStack())
			done := h.leavesNoFile(t)
			path := newPodNetns(t, "pod")
			tool := tool{netns: path}
			ips := resultOf(t, v, tool.must(t, "add")).IPs
			if len(ips) != 2 {
				t.Fatalf("the pod has the addresses %v, expected one of each family", ips)
			}
			ns, err := sandbox.OpenNetns(path)
			check(t, err)
			defer ns.Close()
			for _, ip := range ips {
				mapped, _ := netip.AddrFromSlice(ip.Address.IP)
				address := mapped.Unmap()
				family := map[bool]string{true: "-4", false: "-6"}[address.Is4()]
				if out := run(t, "ip", "-n", "pod", family, "rule"); !strings.Contains(out, "from "+address.String()) {
					t.Errorf("sbr made no rule for %s: %s", address, out)
				}
				server, err := probe.ServeMirror(ns, netip.AddrPortFrom(address, podPort))
				check(t, err)
				defer server.Close()
				if _, err := probe.TCP(t.Context(), h.ns, netip.AddrPortFrom(address, podPort)); err != nil {
					t.Error(err)
				}
			}
			tool.must(t, "check")
			tool.must(t, "del")
			done()
		})
	}
}

// TestChainAfterLoopback has ours behind the reference plugin that may come
// first: of the others, those that make an interface want its name, and the
// rest wants a result before it.
func TestChainAfterLoopback(t *testing.T) {
	for _, v := range []string{"0.4.0", "1.0.0"} {
		t.Run("version "+v, func(t *testing.T) {
			h := newHost(t, chained(t, v, []any{map[string]any{"type": "loopback"}}, nil))
			done := h.leavesNoFile(t)
			tool := tool{netns: newPodNetns(t, "pod")}
			result := resultOf(t, v, tool.must(t, "add"))
			var names []string
			for _, ip := range result.IPs {
				names = append(names, result.Interfaces[*ip.Interface].Name+" "+ip.Address.String())
			}
			if got, _ := json.Marshal(names); !strings.HasPrefix(string(got), `["lo 127.0.0.1/8",`) || !strings.Contains(string(got), `"eth0 10.244.1.`) {
				t.Errorf("addresses are %s, expected lo's and then eth0's", got)
			}
			tool.must(t, "check")
			tool.must(t, "del")
			done()
		})
	}
}
