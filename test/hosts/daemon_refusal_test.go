package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab"
)

func TestDaemonRefusesToStart(t *testing.T) {
	t.Parallel()
	f := newIdleFleet(t, 2)
	h := f.hosts[0]
	config := f.configure("vxlan:\n  vnii: 3\nmtu: 9\n")
	f.quiet(withPatience(t))
	before := f.kernelState(h)
	for _, tt := range []struct {
		name     string
		registry string // what is right if empty
		args     []string
		want     []string // in the message
	}{
		{"a mistaken configuration", "", []string{"--config", config}, []string{
			config + `:2:3: vxlan: unknown key "vnii": did you mean "vxlan.vni"?`,
			config + `:3:6: mtu: "9": expected 0 (from the underlay), or 576 to 65535`,
		}},
		{"no configuration", "", []string{"--config", "/nowhere.yaml"}, []string{"open /nowhere.yaml: no such file"}},
		{"a mistaken flag", "", []string{"--vxlan-port", "0"}, []string{`--vxlan-port: "0": expected a whole number from 1 to 65535`}},
		{"an unknown flag", "", []string{"--unknown"}, []string{"unknown flag: --unknown: see overlayd run --help"}},
		{"the tunnel through itself", "", []string{"--underlay", tunnel}, []string{`--underlay: "overlay0": vxlan.device names the same device`}},
		{"overlapping subnets", f.badRegistry(overlap), nil, []string{
			`nodes.yaml:5:3: node "host-b": pod subnet 10.244.1.128/25 overlaps pod subnet 10.244.1.0/24 of node "host-a"`,
		}},
		{"an address twice", f.badRegistry(sameAddress), nil, []string{
			`nodes.yaml:5:3: node "host-b": address 192.168.77.1 is also the address of node "host-a"`,
		}},
		{"malformed YAML", malformed, nil, []string{"nodes.yaml:1: malformed YAML"}},
		{"no registry", "", []string{"--registry-file", "/nowhere.yaml"}, []string{
			"open /nowhere.yaml: no such file or directory: write it, or name another file with registry.file",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.must(f.lab.Register(f.hosts...))
			if tt.registry != "" {
				f.must(f.lab.WriteRegistry([]byte(tt.registry)))
			}
			_, err := h.StartDaemon(ctx, tt.args...)
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("it did not exit with 1: %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("no word of %q in:\n%v", want, err)
				}
			}
			f.notPublished(h)
		})
	}
	f.sameState(before, f.kernelState(h))
}

// A daemon that is restarted with mistakes in its files, on a host that has a network,
// goes on with what it has: pods talk, new ones are connected, and /readyz says what is
// wrong. When the files are mended, it follows them without another restart.
func TestDaemonIsRestartedWithMistakes(t *testing.T) {
	t.Parallel()
	f := newIdleFleet(t, 2, withHealth, readConfig)
	f.configure("mtu: 1400\n")
	f.startInTurn()
	a := f.hosts[0]
	config, nodes := f.configure("mtu: 1400\n"), f.lab.RegistryFile()
	streams := f.talk(withPatience(t), f.pods[0], f.pods[1])
	for _, tt := range []struct {
		name  string
		spoil func() error
		says  []string
	}{
		{"a mistaken configuration", func() error { return os.WriteFile(config, []byte("mtu: 1\n"), 0o644) },
			[]string{"the new one is refused", `mtu: "1"`}},
		{"a malformed configuration", func() error { return os.WriteFile(config, []byte("{"), 0o644) },
			[]string{"the new one is refused", "malformed YAML"}},
		{"no configuration", func() error { return os.Remove(config) },
			[]string{"the new one is refused", "no such file"}},
		{"a mistaken registry", func() error { return f.lab.WriteRegistry([]byte(malformed)) },
			[]string{"stays as an earlier overlayd set it up", "nodes.yaml:1: malformed YAML"}},
		{"no registry", func() error { return os.Remove(nodes) },
			[]string{"stays as an earlier overlayd set it up", "nodes.yaml: no such file"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.stop(ctx, a)
			f.must(tt.spoil())
			f.launch(a)
			f.eventually(ctx, func(ctx context.Context) error {
				return says(ctx, a, "/readyz", http.StatusOK, append(tt.says, "network: degraded since ")...)
			})
			if log := a.Daemon().Log.String(); !strings.Contains(log, "level=ERROR") {
				t.Errorf("the log has no error:\n%s", log)
			}
			late := f.addPod(ctx, a, "late")
			f.ping(ctx, late, f.pods[1])
			f.must(late.Delete(ctx))
			f.must(f.carries(a, carrier{"eth0", a.Addresses()[0].String(), 1400}))
			f.configure("mtu: 1400\n")
			f.must(f.lab.Register(f.hosts...))
			f.eventuallyReady(ctx, a)
			f.goesOn(ctx, streams)
		})
	}
	f.end(withPatience(t), streams)
}

// Where probes can't be answered, a network that is there is kept nevertheless.
func TestDaemonIsRestartedWithoutItsHealthAddress(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, withHealth)
	ctx, h := withPatience(t), f.hosts[0]
	f.stop(ctx, h)
	var taken net.Listener
	f.on(h.Netns(), func() (err error) {
		taken, err = net.Listen("tcp", healthAddress)
		return err
	})
	f.launch(h)
	f.must(h.Daemon().Log.Wait(ctx, "can't answer probes, trying again"))
	f.must(h.Daemon().Log.Wait(ctx, "msg=reconciled round=network"))
	f.must(taken.Close())
	f.eventuallyReady(ctx, h)
}

// kernelState returns the state of a host without its published file.
func (f *fleet) kernelState(h *lab.Host) []string {
	f.t.Helper()
	s := stateReader{fleet: f, handle: h.Handle(), names: map[int]string{}}
	s.links()
	s.routes()
	s.firewall(h)
	return s.lines
}

const malformed = "nodes:\n- name: [host-a\n"

func (f *fleet) badRegistry(spoil func([]entry)) string {
	nodes := entries(f.hosts...)
	spoil(nodes)
	return registryText(nodes)
}

func overlap(nodes []entry) {
	nodes[1].subnets = []netip.Prefix{likeOf(nodes[0].subnets[0], "10.244.1.128/25", "fd44:0:0:1:8000::/65")}
}

func sameAddress(nodes []entry) { nodes[1].addresses = nodes[0].addresses }

// A wrong edit has no effect but an error in the log. The daemons keep the last
// good content, repair what breaks meanwhile, and take the next edit.
func TestDaemonKeepsTheLastGoodRegistry(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set, noResync)
		f.quiet(withPatience(t))
		a, b := f.hosts[0], f.hosts[1]
		before := f.state(a)
		streams := f.talk(withPatience(t), f.pods[0], f.pods[1])
		for _, tt := range []struct {
			name string
			edit func(*fleet) error
			log  string
		}{
			{"overlapping subnets", f.writes(f.badRegistry(overlap)), "overlaps pod subnet " + a.Subnets()[0].String()},
			{"an address twice", f.writes(f.badRegistry(sameAddress)), "address " + a.Addresses()[0].String() + ` is also the address of node \"host-a\"`},
			{"malformed YAML", f.writes(malformed), "nodes.yaml:1: malformed YAML"},
			{"an empty file", f.writes(""), "nodes: is missing"},
			{"no file", func(f *fleet) error { return os.Remove(f.lab.RegistryFile()) }, "nodes.yaml: no such file"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				f.must(tt.edit(f))
				for _, h := range f.hosts {
					f.must(h.Daemon().Log.Wait(ctx, "the registry: "))
					f.must(h.Daemon().Log.Wait(ctx, tt.log))
				}
				f.sameState(before, f.state(a))
			})
		}
		ctx := withPatience(t)
		f.end(ctx, streams)
		f.must(onLink(tunnel, deleteRoutes)(b.Handle()))
		f.eventually(ctx, func(context.Context) error { return knows(b, entries(a)) })
		streams = f.talk(ctx, f.pods[0], f.pods[1])
		third := likeOf(a.Subnets()[0], "10.244.3.0/24", "fd44:0:0:3::/64")
		c := entry{"host-c", []netip.Addr{likeOf(a.Subnets()[0], "192.168.77.3/32", "fd77::3/128").Addr()}, []netip.Prefix{third}}
		f.register(append(entries(a, b), c))
		for _, h := range f.hosts {
			f.must(h.Daemon().Log.Wait(ctx, "all is well again"))
			f.must(h.Daemon().Log.Wait(ctx, "set route "+third.String()))
		}
		f.end(ctx, streams)
	})
}

func (f *fleet) writes(text string) func(*fleet) error {
	return func(f *fleet) error { return f.lab.WriteRegistry([]byte(text)) }
}

// The daemon leaves an unmanaged device alone. The log names the device, what
// differs, and what to do. Once the device is gone, the daemon continues by itself.
func TestDaemonForeignDevice(t *testing.T) {
	t.Parallel()
	f := newIdleFleet(t, 1, noResync)
	h := f.hosts[0]
	named := func(name string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return a
	}
	for _, tt := range []struct {
		name string
		link netlink.Link
		log  []string
	}{
		{"a tunnel of another network", &netlink.Vxlan{LinkAttrs: named(tunnel), VxlanId: 5, Port: 8472, Learning: true}, []string{
			`vxlan device \"overlay0\" is not ours: it does not have the alias \"overlay-cni\", and has VNI 5 instead of 1, port 8472 instead of 4789`,
			"learning on instead of off", `remove it with \"ip link del overlay0\", or set vxlan.device to another name`,
		}},
		{"another kind with the tunnel's name", &netlink.Bridge{LinkAttrs: named(tunnel)}, []string{
			`device \"overlay0\" is not ours: it is of kind bridge instead of vxlan`, `remove it with \"ip link del overlay0\"`,
		}},
		{"a tunnel with the same VNI and port", &netlink.Vxlan{LinkAttrs: named("vx1"), VxlanId: 1, Port: 4789, SrcAddr: h.Addresses()[0].AsSlice()}, []string{
			`device \"vx1\" has VNI 1 and port 4789: remove it with \"ip link del vx1\", or set vxlan.vni or vxlan.port to another value, on all hosts`,
		}},
		{"another kind with the bridge's name", &netlink.Veth{LinkAttrs: named("cni0"), PeerName: "far"}, []string{
			`cni0 is of kind \"veth\", not a bridge: remove it (ip link del cni0), or set the key \"bridge\" to another name`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.must(h.Handle().LinkAdd(tt.link))
			before := f.linkText(h, tt.link)
			d := f.launch(h)
			for _, want := range tt.log {
				f.must(d.Log.Wait(ctx, want))
			}
			f.notPublished(h)
			if after := f.linkText(h, tt.link); after != before {
				t.Errorf("the foreign device was changed\nfrom %s\nto %s", before, after)
			}
			f.must(onLink(tt.link.Attrs().Name, (*netlink.Handle).LinkDel)(h.Handle()))
			f.must(d.Log.Wait(ctx, "all is well again"))
			f.published(h)
			f.stop(ctx, h)
			f.reset(h)
		})
	}
}

func (f *fleet) linkText(h *lab.Host, like netlink.Link) string {
	f.t.Helper()
	for _, line := range f.kernelState(h) {
		if strings.HasPrefix(line, "link "+like.Attrs().Name+" ") {
			return line
		}
	}
	return "nothing"
}

// reset removes everything that a daemon made on a host.
func (f *fleet) reset(h *lab.Host) {
	f.t.Helper()
	for _, name := range []string{tunnel, "cni0"} {
		f.must(onLink(name, (*netlink.Handle).LinkDel)(h.Handle()))
	}
	f.must(os.RemoveAll(h.RunDir()))
	f.must(os.Mkdir(h.RunDir(), 0o755))
}

func TestDaemonWaitsForItsName(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 2, noResync), withPatience(t)
	a, b := f.hosts[0], f.hosts[1]
	f.must(f.lab.Register(b))
	d := f.launch(a)
	f.must(d.Log.Wait(ctx, `node \"host-a\" is not in the registry, which has [\"host-b\"]: add it there, or set nodeName to one of these`))
	f.notPublished(a)
	f.must(f.lab.Register(a, b))
	f.must(d.Log.Wait(ctx, "all is well again"))
	if got := f.published(a).Node; got != "host-a" {
		t.Errorf("published as %q", got)
	}
}
