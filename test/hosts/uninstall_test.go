package hosts

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
)

// installation holds the directories of a host's runtime.
type installation struct {
	f   *fleet
	h   *lab.Host
	dir string
}

func (f *fleet) installation(h *lab.Host) installation {
	return installation{f, h, f.t.TempDir()}
}

func (i installation) file(name string) string { return filepath.Join(i.dir, name) }

// run runs a command of overlayd on the host.
func (i installation) run(ctx context.Context, command string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "overlayd"), append([]string{command, "--bin-dir", i.file("bin")}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := i.h.Netns().Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

func (i installation) uninstall(ctx context.Context, args ...string) (string, error) {
	return i.run(ctx, "uninstall", append([]string{"--conf-dir", i.file("net.d"), "--run-dir", i.h.RunDir()}, args...)...)
}

// left is what an uninstall could leave: links, addresses, routes, tables of
// nftables, and files.
func (i installation) left() []string {
	i.f.t.Helper()
	s := stateReader{fleet: i.f, handle: i.h.Handle(), names: map[int]string{}}
	s.links()
	s.addresses()
	s.routes()
	for line := range strings.Lines(i.f.nft(i.h, "list", "chains")) {
		if strings.Contains(line, "table ") || strings.Contains(line, "chain ") {
			s.add("%s", strings.TrimSpace(line))
		}
	}
	i.f.must(filepath.WalkDir(i.dir, func(path string, _ os.DirEntry, err error) error {
		s.add("file %s", path)
		return err
	}))
	if _, err := os.Stat(i.h.RunDir()); err == nil {
		s.add("run directory")
	}
	slices.Sort(s.lines)
	// The kernel gives interfaces link-local addresses by itself, a second or two
	// after they are up.
	return slices.DeleteFunc(s.lines, func(l string) bool {
		return strings.HasPrefix(l, "address fe80::") || strings.HasPrefix(l, "route fe80::")
	})
}

// prepare sets up what isn't ours: forwarding, which stays on, and a table of
// iptables-nft, in which the daemon puts a chain.
func (i installation) prepare() {
	i.f.t.Helper()
	i.f.on(i.h.Netns(), func() error {
		for _, path := range []string{"net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/"+path, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
	i.f.nft(i.h, "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority filter; }")
	i.f.must(os.MkdirAll(i.file("bin"), 0o755))
	i.f.must(os.MkdirAll(i.file("net.d"), 0o755))
	i.f.must(os.WriteFile(i.file("bin/loopback"), nil, 0o755))
	i.f.must(os.WriteFile(i.file("net.d/99-loopback.conf"), nil, 0o644))
}

// uninstall removes everything that daemon and plugin made, and nothing else.
func TestUninstallLeavesTheHostAsItWas(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 2, func(c *lab.Config) {
		c.DaemonArgs = append(c.DaemonArgs, "--direct-routing", "--bridge", "br-pods", "--vxlan-device", "tun7")
	}), withPatience(t)
	h := f.hosts[0]
	i := f.installation(h)
	i.prepare()
	f.must(os.RemoveAll(h.RunDir())) // which the lab made
	before := i.left()
	f.must(os.MkdirAll(h.RunDir(), 0o755))
	for _, h := range f.hosts {
		f.start(ctx, h)
	}
	f.occupy(ctx, i)
	during := i.left()

	i.refuses(ctx, "overlayd runs on this host")
	f.stop(ctx, h)
	i.refuses(ctx, "lab/mapped, lab/plain: delete them first")
	f.sameState(during, i.left())

	out, err := i.uninstall(ctx, "--force")
	if err != nil || !strings.Contains(out, "nothing of overlay-cni is left") {
		t.Errorf("%v\n%s", err, out)
	}
	f.sameState(before, i.left())
	if out, err := i.uninstall(ctx); err != nil || strings.Contains(out, "removed") {
		t.Errorf("a second time: %v\n%s", err, out)
	}
	// The host may come back.
	f.must(os.MkdirAll(h.RunDir(), 0o755)) // for the lab to watch
	f.start(ctx, h)
	f.addPod(ctx, h, "again")
}

// occupy installs everything, and makes two pods, one with a host port.
func (f *fleet) occupy(ctx context.Context, i installation) {
	f.t.Helper()
	out, err := i.run(ctx, "install", "--plugin", filepath.Join(programs, "overlay-cni"))
	if err != nil {
		f.t.Fatalf("%v\n%s", err, out)
	}
	_, err = cnifiles.Config{Dir: i.file("net.d"), Name: cnifiles.DefaultConfName, Content: cnifiles.Conflist(i.h.RunDir())}.Sync()
	f.must(err)
	f.addPod(ctx, i.h, "plain")
	_, err = i.h.AddPod(ctx, lab.PodSpec{Name: "mapped", Config: i.h.PluginConfig(map[string]any{"runtimeConfig": map[string]any{
		"portMappings": []any{map[string]any{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
		"bandwidth":    map[string]any{"egressRate": 8000000, "egressBurst": 8000000},
	}})})
	f.must(err)
}

func (i installation) refuses(ctx context.Context, why string, args ...string) {
	i.f.t.Helper()
	if out, err := i.uninstall(ctx, args...); err == nil || !strings.Contains(out, why) {
		i.f.t.Errorf("%v, no word of %q in:\n%s", err, why, out)
	}
}

// A host that leaves for good need not stay in etcd until its lease ends: told
// where etcd is, uninstall removes that host's keys, and no other's.
func TestUninstallFreesSubnetsInEtcd(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 2, byEtcd, noResync), withPatience(t)
	etcd := newEtcd(f)
	etcd.put(ctx, "/overlay-cni/config", `networks: [10.99.0.0/16, "fd99::/48"]`)
	for _, h := range f.hosts {
		f.start(ctx, h, "--registry-etcd-host-id", h.Name)
	}
	a, b := f.hosts[0], f.hosts[1]
	i, had := f.installation(a), f.published(a).Subnets
	f.eventually(ctx, func(context.Context) error { return knows(b, []entry{{a.Name, a.Addresses(), had}}) })
	config := i.file("overlayd.yaml")
	f.must(os.WriteFile(config, fmt.Appendf(nil, "nodeName: %s\nregistry: {type: etcd, etcd: {endpoints: [%q], hostId: %s}}\n", a.Name, etcd.url, a.Name), 0o644))
	all := etcd.keys(ctx)
	if len(all) != 7 { // the configuration, and a node with two subnets twice
		t.Fatalf("before there are %q", all)
	}
	i.refuses(ctx, "overlayd runs on this host", "--config", config)
	f.stop(ctx, a)
	i.refuses(ctx, "--registry-etcd-lease-time: ", "--config", config, "--registry-etcd-lease-time", "soon")
	if out, err := i.uninstall(ctx); err != nil || strings.Contains(out, "etcd") {
		t.Errorf("not told of etcd: %v\n%s", err, out)
	}
	i.refuses(ctx, `overlayd: remove node "host-a" from etcd: the node name is taken: the key /overlay-cni/nodes/host-a was not written by this machine`,
		"--config", config, "--registry-etcd-host-id", "another")
	if left := etcd.keys(ctx); !slices.Equal(left, all) {
		t.Fatalf("too early: there are %q, and were %q", left, all)
	}

	want := fmt.Sprintf("removed node host-a from etcd, which frees the pod subnets %s %s\n", had[0], had[1])
	if out, err := i.uninstall(ctx, "--config", config); err != nil || !strings.Contains(out, want) {
		t.Errorf("%v\n%s", err, out)
	}
	f.eventually(ctx, func(context.Context) error { return knows(b, nil) })
	left := etcd.keys(ctx)
	if !slices.Contains(left, "/overlay-cni/nodes/host-b") || len(left) != 4 {
		t.Errorf("there are %q", left)
	}
	if out, err := i.uninstall(ctx, "--config", config); err != nil || strings.Contains(out, "removed") {
		t.Errorf("a second time: %v\n%s", err, out)
	}
}

// The configuration alone says where to look for pods and what to remove. A run
// directory that is missing for a while hides no pod. As long as there is a pod,
// no other host may get this host's subnets.
func TestUninstallGoesByTheConfiguration(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 1, byEtcd, noResync), withPatience(t)
	etcd, h := newEtcd(f), f.hosts[0]
	etcd.put(ctx, "/overlay-cni/config", `networks: [10.99.0.0/16, "fd99::/48"]`)
	i := f.installation(h)
	i.prepare()
	f.must(os.RemoveAll(h.RunDir())) // which the lab made
	before := i.left()
	f.must(os.MkdirAll(h.RunDir(), 0o755))
	config := filepath.Join(t.TempDir(), "overlayd.yaml")
	f.must(os.WriteFile(config, fmt.Appendf(nil, `
nodeName: %s
runDir: %s
bridge: br9
vxlan: {device: tun9}
cni: {confDir: %s, confName: 20-ours.conflist}
registry: {type: etcd, etcd: {endpoints: [%q], hostId: %s}}
`, h.Name, h.RunDir(), i.file("net.d"), etcd.url, h.Name), 0o644))
	f.start(ctx, h, "--config", config)
	pod, during := f.addPod(ctx, h, "pod"), etcd.keys(ctx)
	f.stop(ctx, h)

	refuses := func(names string) {
		t.Helper()
		out, err := i.run(ctx, "uninstall", "--config", config)
		if err == nil || !strings.Contains(out, "pods of this host are on the network: "+names) || strings.Contains(out, "removed") {
			t.Errorf("%v\n%s", err, out)
		}
	}
	refuses("lab/pod: ")
	aside := h.RunDir() + "-aside"
	f.must(os.Rename(h.RunDir(), aside))
	refuses("veth")
	f.must(os.Rename(aside, h.RunDir()))
	if left := etcd.keys(ctx); len(left) != 4 || !slices.Equal(left, during) { // the configuration, and a node with two subnets
		t.Fatalf("there are %q, and were %q", left, during)
	}

	f.must(pod.Delete(ctx))
	out, err := i.run(ctx, "uninstall", "--config", config)
	if err != nil || !strings.Contains(out, "removed node "+h.Name+" from etcd") {
		t.Errorf("%v\n%s", err, out)
	}
	f.sameState(before, i.left())
	if left := etcd.keys(ctx); len(left) != 1 {
		t.Errorf("there are %q", left)
	}
}

// The daemon's last published state overrides its configuration, because the
// daemon may have had flags. uninstall's own flags override both.
func TestUninstallKnowsTheLastNames(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 1), withPatience(t)
	h := f.hosts[0]
	i := f.installation(h)
	f.start(ctx, h, "--bridge", "br9")
	f.addPod(ctx, h, "pod")
	f.stop(ctx, h)
	config := i.file("overlayd.yaml")
	f.must(os.WriteFile(config, fmt.Appendf(nil, "nodeName: %s\nrunDir: /none\nbridge: br8\n", h.Name), 0o644))
	i.refuses(ctx, "lab/pod: delete them first", "--config", config)
	f.must(os.RemoveAll(filepath.Join(h.RunDir(), "attachments")))
	i.refuses(ctx, "on the network: veth", "--config", config)
	i.refuses(ctx, "on the network: veth", "--config", config, "--bridge", "br9", "--run-dir", "/none")
}

// A run directory that somebody removed hides no pod.
func TestUninstallFindsPodsWithoutRecords(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	ctx, h := withPatience(t), f.hosts[0]
	f.stop(ctx, h)
	i := f.installation(h)
	f.must(os.RemoveAll(h.RunDir()))
	i.refuses(ctx, "pods of this host are on the network: veth")
	if out, err := i.uninstall(ctx, "--force"); err != nil || !strings.Contains(out, "removed port veth") || !strings.Contains(out, "removed bridge cni0") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The container that cleans a node has only the run directory of /run. It can't
// remove what is mounted there, but empties it.
func TestUninstallEmptiesAMountedRunDirectory(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	ctx, h := withPatience(t), f.hosts[0]
	f.stop(ctx, h)
	i := f.installation(h)
	f.must(unix.Mount(h.RunDir(), h.RunDir(), "", unix.MS_BIND, ""))
	t.Cleanup(func() { f.must(unix.Unmount(h.RunDir(), unix.MNT_DETACH)) })
	for range 2 {
		if out, err := i.uninstall(ctx, "--force"); err != nil || !strings.Contains(out, "nothing of overlay-cni is left") {
			t.Errorf("%v\n%s", err, out)
		}
	}
	if left, err := os.ReadDir(h.RunDir()); err != nil || len(left) > 0 {
		t.Errorf("in the run directory there is %v, %v", left, err)
	}
}

// foreign makes two unmanaged devices.
func (i installation) foreign(name, peer string) netlink.Link {
	i.f.t.Helper()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}
	i.f.must(i.h.Handle().LinkAdd(link))
	return link
}

// uninstall leaves unmanaged objects alone, even under names of ours.
func TestUninstallLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 1), withPatience(t)
	i := f.installation(f.hosts[0])
	i.foreign(tunnel, "cni0")
	f.must(os.RemoveAll(i.h.RunDir())) // which the lab made
	before := i.left()
	if out, err := i.uninstall(ctx, "--force"); err != nil || strings.Contains(out, "removed") {
		t.Errorf("%v\n%s", err, out)
	}
	f.sameState(before, i.left())
}

// uninstall removes only our ports from a bridge that another program uses too.
func TestUninstallKeepsASharedBridge(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	ctx, h := withPatience(t), f.hosts[0]
	f.stop(ctx, h)
	i := f.installation(h)
	link, err := h.Handle().LinkByName("cni0")
	f.must(err)
	f.must(h.Handle().LinkSetMaster(i.foreign("theirs", "theirs-peer"), link))
	out, err := i.uninstall(ctx, "--force")
	if err == nil || !strings.Contains(out, "remove bridge: cni0 still has ports of other programs: remove the ports first: theirs") {
		t.Errorf("%v\n%s", err, out)
	}
	if links := fmt.Sprint(i.left()); strings.Contains(links, "link veth") || strings.Contains(links, tunnel) || !strings.Contains(links, "theirs") {
		t.Errorf("there is %s", links)
	}
}

func TestInstallSaysWhatItDid(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 1), withPatience(t)
	i := f.installation(f.hosts[0])
	for _, want := range []string{"is installed", "is up to date"} {
		if out, err := i.run(ctx, "install"); err != nil || !strings.HasPrefix(out, i.file("bin/overlay-cni")+" "+want) {
			t.Errorf("%v: %s", err, out)
		}
	}
	if out, err := i.run(ctx, "install", "--plugin", "/none"); err == nil || !strings.Contains(out, "/none") {
		t.Errorf("%v: %s", err, out)
	}
}
