package hosts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
)

// record is the file of an attachment.
func (p *pluginHost) record(id string) string {
	return filepath.Join(p.host.RunDir(), "attachments", id+"@eth0.json")
}

// unplug removes a pod's veth pair, which goes with its namespace.
func (p *pluginHost) unplug(t *testing.T, id string) {
	t.Helper()
	h := p.host.Handle()
	port, err := h.LinkByName(attachment.Owner{ContainerID: id, IfName: "eth0"}.Key().HostName())
	if err == nil {
		err = h.LinkDel(port)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestHostPortsOfALostRecord: the reservations name the pod's addresses. Host
// ports to those addresses go before the addresses are free.
func TestHostPortsOfALostRecord(t *testing.T) {
	t.Parallel()
	empty := func(path string) error { return os.Truncate(path, 0) }
	again := func(t *testing.T, p *pluginHost, netns string) {
		if _, cniErr := p.run(t, invocation{command: "ADD", netns: netns}); cniErr != nil {
			t.Fatal(cniErr)
		}
		reserved, targets := reservations(p.snapshot(t)), p.portTargets(t)
		if len(reserved) != len(p.subnets) || len(targets) != len(p.subnets) {
			t.Errorf("one pod of %v has %v, and ports lead to %v", p.subnets, reserved, targets)
		}
		for _, a := range targets {
			if !reserved[a.String()] {
				t.Errorf("a port leads to %s, which the pod doesn't have", a)
			}
		}
		p.del(t, "pod")
	}
	del := func(t *testing.T, p *pluginHost, _ string) { p.del(t, "pod") }
	gc := func(t *testing.T, p *pluginHost, _ string) {
		if _, cniErr := p.run(t, invocation{command: "GC", stdin: p.valid("bystander")}); cniErr != nil {
			t.Fatal(cniErr)
		}
	}
	const unplugged, plugged = false, true
	for _, tc := range []struct {
		name string
		lose func(path string) error
		pair bool
		then func(t *testing.T, p *pluginHost, netns string)
	}{
		{"empty, DEL", empty, plugged, del},
		{"empty, no pair, DEL", empty, unplugged, del},
		{"empty, no pair, GC", empty, unplugged, gc},
		{"empty, ADD and DEL", empty, plugged, again},
		{"empty, no pair, ADD and DEL", empty, unplugged, again},
		{"missing, DEL", os.Remove, plugged, del},
		{"missing, no pair, DEL", os.Remove, unplugged, del},
		{"missing, GC", os.Remove, plugged, gc},
		{"missing, no pair, GC", os.Remove, unplugged, gc},
		{"missing, ADD and DEL", os.Remove, plugged, again},
		{"missing, no pair, ADD and DEL", os.Remove, unplugged, again},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := newPlugin(t, m.subnets...)
				before := p.snapshot(t)
				p.conf["runtimeConfig"] = map[string]any{"portMappings": []map[string]any{
					{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
				}}
				netns, _ := p.add(t, "pod")
				if got := strings.Count(p.snapshot(t), "port ports"); got != len(m.subnets) {
					t.Fatalf("%d ports are open:\n%s", got, p.snapshot(t))
				}
				if err := tc.lose(p.record("pod")); err != nil {
					t.Fatal(err)
				}
				if tc.pair == unplugged {
					p.unplug(t, "pod")
				}
				tc.then(t, p, netns.Path())
				if after := p.snapshot(t); after != before {
					t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
				}
			})
		})
	}
}

// TestGCLeavesOtherNetworksPodsWithoutARecordAlone: an attachment without a
// network's name may be any network's. GC removes it only once no pod can use it.
func TestGCLeavesOtherNetworksPodsWithoutARecordAlone(t *testing.T) {
	t.Parallel()
	for name, lose := range losses() {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t, "10.244.1.0/24")
			q := newPluginOn(p.host, "10.9.0.0/24")
			q.conf["name"], q.conf["bridge"] = "second", "cni1"
			nothing := p.snapshot(t)
			ns, _ := q.add(t, "pod")
			if err := lose(p.record("pod")); err != nil {
				t.Fatal(err)
			}
			live := p.snapshot(t)
			gc := func() string {
				if _, cniErr := p.run(t, invocation{command: "GC", stdin: p.valid()}); cniErr != nil {
					t.Fatal(cniErr)
				}
				return p.snapshot(t)
			}
			if after := gc(); after != live {
				t.Errorf("left of another network's pod:\n%s\nbefore:\n%s", after, live)
			}
			if err := reach(t.Context(), t, ns, q.gateways()[0].Addr()); err != nil {
				t.Error(err)
			}
			p.unplug(t, "pod")
			if after := gc(); after != nothing {
				t.Errorf("left of a pod that is gone:\n%s", after)
			}
		})
	}
}

// losses are what may happen to the record of a running pod.
func losses() map[string]func(path string) error {
	content := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o644) }
	}
	const begin = `{"version":1,"network":"second","containerID":"pod","ifName":"eth0"`
	return map[string]func(string) error{
		"missing": os.Remove, "empty": content(""), "damaged": content("{"),
		"without addresses": content(begin + "}"), "with an empty address": content(begin + `,"addresses":["10.244.1.2",""]}`),
	}
}

// The daemon leaves the host ports and addresses of a pod without a usable record
// alone until the pod is gone.
func TestSweepLeavesPodsWithoutARecordAlone(t *testing.T) {
	t.Parallel()
	for name, lose := range losses() {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := newPlugin(t, m.subnets...)
				nothing := p.snapshot(t)
				p.conf["runtimeConfig"] = map[string]any{"portMappings": []map[string]any{
					{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
				}}
				p.add(t, "pod")
				if err := lose(p.record("pod")); err != nil {
					t.Fatal(err)
				}
				live := p.snapshot(t)
				p.sweep(t)
				if after := p.snapshot(t); after != live {
					t.Errorf("left:\n%s\nbefore:\n%s", after, live)
				}
				p.unplug(t, "pod")
				p.sweep(t)
				if after := p.snapshot(t); after != nothing {
					t.Errorf("left of a pod that is gone:\n%s\nbefore:\n%s", after, nothing)
				}
			})
		})
	}
}
