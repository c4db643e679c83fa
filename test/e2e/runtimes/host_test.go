package runtimes

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

const (
	confDir = "/etc/cni/net.d"
	binDir  = "/opt/cni/bin"
	runDir  = "/run/overlay-cni"
	// network is the name in conf/10-overlay-single.conflist.
	network = "overlay"
	// patience is for a machine that is busy with other things.
	patience = time.Minute
)

// pods' port in their image.
const podPort = 8080

// hostAddr is the host's on the wire to the client.
func hostAddr() netip.Addr { return netip.MustParseAddr("192.168.77.1") }

func localhost() netip.Addr { return netip.MustParseAddr("127.0.0.1") }

// host is the sandbox as a machine that has the plugin installed.
type host struct {
	ns *sandbox.Netns
	// client is another machine on the same wire.
	client *sandbox.Netns
}

// conflist is what conf/10-overlay-single.conflist becomes with changes.
type conflist map[string]any

// shipped reads the configuration that users copy.
func shipped(t *testing.T) conflist {
	t.Helper()
	data, err := os.ReadFile("../../../conf/10-overlay-single.conflist")
	check(t, err)
	var c conflist
	check(t, json.Unmarshal(data, &c))
	return c
}

func (c conflist) plugin() map[string]any { return c["plugins"].([]any)[0].(map[string]any) }

func (c conflist) withVersion(v string) conflist {
	c["cniVersion"] = v
	delete(c, "cniVersions")
	return c
}

// offering lets libcni choose: of 1.2 and later the highest one that it knows.
// Older ones take cniVersion, which is the lowest.
func (c conflist) offering(versions ...string) conflist {
	c["cniVersion"], c["cniVersions"] = versions[0], versions
	return c
}

func (c conflist) dualStack() conflist {
	c.plugin()["ipam"] = map[string]any{"ranges": []any{
		[]any{map[string]string{"subnet": "10.244.1.0/24"}}, []any{map[string]string{"subnet": "fd00:244:1::/64"}},
	}}
	return c
}

func (c conflist) install(t *testing.T) {
	t.Helper()
	data, err := json.MarshalIndent(c, "", "  ")
	check(t, err)
	check(t, os.MkdirAll(confDir, 0o755))
	check(t, os.WriteFile(filepath.Join(confDir, "10-"+c["name"].(string)+".conflist"), data, 0o644))
}

// newHost installs plugin and configuration, joins the host to a client, and
// connects a first pod, so that what is made once and stays is there.
func newHost(t *testing.T, c conflist) *host {
	t.Helper()
	check(t, os.MkdirAll(binDir, 0o755))
	run(t, "cp", filepath.Join(os.Getenv(buildEnv), "overlay-cni"), "/usr/lib/cni/loopback", binDir)
	c.install(t)
	ns, err := sandbox.OpenNetns("/proc/thread-self/ns/net")
	check(t, err)
	client, err := sandbox.CreateNetns("client")
	check(t, err)
	t.Cleanup(func() {
		// The next test finds a new machine.
		_ = exec.Command("sh", "-c", "ip link del wire; ip link del cni0; nft flush ruleset").Run()
		forwarding := os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("0"), 0)
		check(t, errors.Join(forwarding, os.RemoveAll(runDir), os.RemoveAll("/var/lib/cni/results"), os.RemoveAll(confDir), client.Delete(), ns.Close()))
	})
	run(t, "ip", "link", "add", "wire", "type", "veth", "peer", "name", "eth0", "netns", "client")
	run(t, "ip", "address", "add", "192.168.77.1/24", "dev", "wire")
	run(t, "ip", "-n", "client", "address", "add", "192.168.77.9/24", "dev", "eth0")
	run(t, "ip", "link", "set", "wire", "up")
	run(t, "ip", "-n", "client", "link", "set", "eth0", "up")
	h := &host{ns: ns, client: client}
	first := tool{netns: newPodNetns(t, "first"), capabilities: `{"portMappings":[{"hostPort":9,"containerPort":9,"protocol":"tcp"}]}`}
	first.must(t, "add")
	first.must(t, "del")
	return h
}

func newPodNetns(t *testing.T, name string) string {
	t.Helper()
	ns, err := sandbox.CreateNetns(name)
	check(t, err)
	t.Cleanup(func() { _ = ns.Delete() })
	return ns.Path()
}

// left is everything that an attachment may leave on the host.
func (h *host) left(t *testing.T) string {
	t.Helper()
	links, err := net.Interfaces()
	check(t, err)
	var lines []string
	for _, l := range links {
		lines = append(lines, "link "+l.Name)
	}
	for _, dir := range []string{filepath.Join(runDir, "addresses"), filepath.Join(runDir, "attachments"), "/var/lib/cni/results"} {
		lines = append(lines, files(t, dir)...)
	}
	return strings.Join(lines, "\n") + "\n" + run(t, "nft", "--stateless", "list", "ruleset")
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, "file "+path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return found
}

// leavesNothing checks at the test's end that the host is what it is now.
func (h *host) leavesNothing(t *testing.T) func() {
	t.Helper()
	before := h.left(t)
	return func() {
		t.Helper()
		if after := h.left(t); after != before {
			t.Errorf("the host is not what it was, (- before, + after):\n%s", cmp.Diff(before, after))
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a program that has to succeed and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	// Clean-up runs programs, too, when the test's context has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// version logs a program's version, for the table in the README.
func version(t *testing.T, name string, args ...string) {
	t.Helper()
	t.Logf("version: %s", strings.Join(strings.Fields(run(t, name, args...)), " "))
}

// pod is a running one, however it was made.
type pod struct {
	ns   *sandbox.Netns
	addr netip.Addr
}

func podOf(t *testing.T, pid string) pod {
	t.Helper()
	ns, err := sandbox.OpenNetns("/proc/" + strings.TrimSpace(pid) + "/ns/net")
	check(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	addr, err := addressIn(ns)
	check(t, err)
	return pod{ns: ns, addr: addr}
}

// addressIn is the first of eth0's addresses.
func addressIn(ns *sandbox.Netns) (addr netip.Addr, err error) {
	err = ns.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := eth0.Addrs()
		if err != nil {
			return err
		}
		if len(addrs) == 0 {
			return errors.New("eth0 has no address")
		}
		prefix, err := netip.ParsePrefix(addrs[0].String())
		addr = prefix.Addr()
		return err
	})
	return addr, err
}

// reach checks that the server is there over TCP and UDP and returns whom it
// saw asking.
func reach(t *testing.T, from *sandbox.Netns, to netip.AddrPort) netip.Addr {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var seen probe.Seen
	err := probe.Eventually(ctx, func(ctx context.Context) (err error) {
		seen, err = probe.TCP(ctx, from, to)
		return err
	})
	if err == nil {
		err = probe.Eventually(ctx, func(ctx context.Context) error {
			_, err := probe.UDP(ctx, from, to)
			return err
		})
	}
	if err != nil {
		t.Errorf("from %s: %v", from.Path(), err)
	}
	return seen.Source.Addr().Unmap()
}

// mesh checks that the pods reach each other, by ping and by their server, and
// see each other's own addresses, and that the host reaches both.
func (h *host) mesh(t *testing.T, a, b pod) {
	t.Helper()
	for _, pair := range [][2]pod{{a, b}, {b, a}, {pod{ns: h.ns}, a}, {pod{ns: h.ns}, b}} {
		from, to := pair[0], pair[1]
		if _, err := probe.Ping(t.Context(), from.ns, to.addr); err != nil {
			t.Error(err)
		}
		seen := reach(t, from.ns, netip.AddrPortFrom(to.addr, podPort))
		if from.addr.IsValid() && seen != from.addr {
			t.Errorf("%s sees %s as %s", to.addr, from.addr, seen)
		}
	}
}

// webHostPort is the host's for the pod that serves.
const webHostPort = 8081

// hostPort checks every way to a pod's port on the host.
func (h *host) hostPort(t *testing.T, to, other pod) {
	t.Helper()
	out := netip.AddrPortFrom(hostAddr(), webHostPort)
	if seen := reach(t, h.client, out); seen != netip.MustParseAddr("192.168.77.9") {
		t.Errorf("port %d of the host: the client is seen as %s, expected its own address", webHostPort, seen)
	}
	reach(t, h.ns, out)
	reach(t, h.ns, netip.AddrPortFrom(localhost(), webHostPort))
	reach(t, other.ns, out)
	reach(t, to.ns, out) // hairpin
}
