package hosts

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/pods"
)

// killed runs the plugin and kills it after a step. It returns false if the
// plugin ended before, with success.
func (p *pluginHost) killed(t *testing.T, r invocation, step int) bool {
	t.Helper()
	cmd := p.command(t, r)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := killAfter(p.host.Netns(), cmd, step)
	if err != nil && !errors.Is(err, errKilled) {
		t.Fatalf("step %d: %v, and the plugin printed: %s", step, err, &out)
	}
	return err != nil
}

// recoveries are the ways to clean up after a killed ADD or DEL.
var recoveries = []struct {
	name string
	do   func(t *testing.T, p *pluginHost, netns string)
}{
	{"DEL", func(t *testing.T, p *pluginHost, _ string) { p.del(t, "pod") }},
	{"GC", func(t *testing.T, p *pluginHost, _ string) {
		if _, cniErr := p.run(t, invocation{command: "GC", stdin: p.valid("bystander")}); cniErr != nil {
			t.Fatal(cniErr)
		}
	}},
	{"ADD and DEL", func(t *testing.T, p *pluginHost, netns string) {
		if _, cniErr := p.run(t, invocation{command: "ADD", netns: netns}); cniErr != nil {
			t.Errorf("the next ADD: %v", cniErr)
		}
		p.del(t, "pod")
	}},
	{"the pod's end and the daemon's sweep", func(t *testing.T, p *pluginHost, _ string) {
		h := p.host.Handle()
		if port, err := h.LinkByName(attachment.Owner{ContainerID: "pod", IfName: "eth0"}.Key().HostName()); err == nil {
			if err := h.LinkDel(port); err != nil {
				t.Fatal(err)
			}
		}
		p.sweep(t)
	}},
}

// sweep does what a daemon's round for pods does.
func (p *pluginHost) sweep(t *testing.T) {
	t.Helper()
	sandboxtest.Do(t, p.host.Netns(), func() error {
		h, err := pods.Open(p.host.RunDir())
		if err != nil {
			return err
		}
		defer h.Close()
		spec := bridge.Spec{Name: "cni0", MTU: 1500, Gateways: p.gateways()}
		round := func() ([]string, error) { // as the daemon's: each part of the round for pods
			guarded, guardErr := h.SyncGuard(false)
			ports, portsErr := h.SyncHostPorts(spec.Name)
			others, err := h.Sync(spec)
			if errors.Is(err, pods.ErrUnrecorded) {
				err = nil // such pods are what the tests make
			}
			return slices.Concat(guarded, ports, others), errors.Join(guardErr, portsErr, err)
		}
		if _, err := round(); err != nil {
			return err
		}
		again, err := round()
		if len(again) > 0 {
			t.Errorf("the second round changed %q", again)
		}
		return err
	})
}

// everything is what a runtime can ask for beside addresses, so that there is
// as much as possible to leave behind.
var everything = map[string]any{
	"portMappings": []map[string]any{
		{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
		{"hostPort": 53, "containerPort": 53, "protocol": "udp"},
	},
	"bandwidth": map[string]uint64{"ingressRate": 8000, "ingressBurst": 8000, "egressRate": 8000, "egressBurst": 8000},
}

// TestKilledAtEveryStep kills the plugin after each of its system calls that
// change something, and looks whether the host is as it was after each way of
// cleaning up.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		for _, command := range []string{"ADD", "DEL"} {
			for i, r := range recoveries {
				if m.name != dualStack && i > 0 {
					continue // they go by the records, in which families are data: one way shows that a single one is no other case
				}
				t.Run(command+" then "+r.name, func(t *testing.T) {
					p := newPlugin(t, m.subnets...)
					netns := sandboxtest.NewNetns(t).Path()
					// What stays is there from the start: directories, bridge, tables.
					p.conf["runtimeConfig"] = everything
					p.add(t, "first")
					p.del(t, "first")
					p.conf["runtimeConfig"] = nil
					p.add(t, "bystander")
					p.conf["runtimeConfig"] = everything
					before := p.snapshot(t)
					steps := 0
					for step := 1; ; step++ {
						if command == "DEL" {
							if _, cniErr := p.run(t, invocation{command: "ADD", netns: netns}); cniErr != nil {
								t.Fatal(cniErr)
							}
						}
						killed := p.killed(t, invocation{command: command, netns: netns}, step)
						r.do(t, p, netns)
						if after := p.snapshot(t); after != before {
							t.Fatalf("killed at step %d, left behind:\n%s\nbefore:\n%s", step, after, before)
						}
						if !killed {
							break
						}
						steps = step
					}
					if steps < 5 {
						t.Errorf("the plugin was killed at %d steps only: is it traced?", steps)
					}
					t.Logf("%d steps", steps)
				})
			}
		}
	})
}

// TestKilledWithTheFirstPod kills the ADD that makes the bridge after each of its
// steps. The next pod's ADD has to find whatever is missing, without a daemon.
func TestKilledWithTheFirstPod(t *testing.T) {
	t.Parallel()
	const mtu = 1400 // the bridge is born with another one
	eachMode(t, func(t *testing.T, m mode) {
		p := newPlugin(t, m.subnets...)
		p.conf["mtu"] = mtu
		steps := 0
		for step := 1; ; step++ {
			killed := p.killed(t, invocation{command: "ADD", netns: sandboxtest.NewNetns(t).Path()}, step)
			ns := sandboxtest.NewNetns(t)
			out, cniErr := p.run(t, invocation{command: "ADD", id: "next", netns: ns.Path()})
			if cniErr != nil {
				t.Fatalf("killed at step %d, the next ADD: %v", step, cniErr)
			}
			check := invocation{command: "CHECK", id: "next", netns: ns.Path(), stdin: p.with(map[string]any{"prevResult": rawJSON(out)})}
			if _, cniErr := p.run(t, check); cniErr != nil {
				t.Errorf("killed at step %d, CHECK of the next pod: %v", step, cniErr)
			}
			for _, gateway := range m.gateways() {
				if err := reach(t.Context(), t, ns, gateway); err != nil {
					t.Errorf("killed at step %d: %v", step, err)
				}
			}
			p.del(t, "pod")
			p.del(t, "next")
			p.withoutBridge(t, mtu, step)
			if !killed {
				break
			}
			steps = step
		}
		if steps < 10 {
			t.Errorf("the plugin was killed at %d steps only: is it traced?", steps)
		}
		t.Logf("%d steps", steps)
	})
}

// withoutBridge restores the host to its state before the first pod, once the
// last pod is gone. It checks that the bridge kept its own MTU until then.
func (p *pluginHost) withoutBridge(t *testing.T, mtu, step int) {
	t.Helper()
	h := p.host.Handle()
	bridge, err := h.LinkByName("cni0")
	if err != nil {
		t.Fatal(err)
	}
	if got := bridge.Attrs().MTU; got != mtu {
		t.Errorf("killed at step %d: the bridge has MTU %d, not %d", step, got, mtu)
	}
	if err := h.LinkDel(bridge); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Do(t, p.host.Netns(), func() error {
		for _, family := range []string{"ipv4", "ipv6"} {
			if err := os.WriteFile(filepath.Join("/proc/sys/net", family, "conf/all/forwarding"), []byte("0"), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}
