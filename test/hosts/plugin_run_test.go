package hosts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// pluginHost is a host on which the plugin runs alone: without a daemon.
type pluginHost struct {
	host    *lab.Host
	subnets []netip.Prefix
	conf    map[string]any
	program string // empty: the one that make build would make
}

// newPlugin makes a host and a configuration with one range for each subnet.
func newPlugin(t *testing.T, subnets ...string) *pluginHost {
	t.Helper()
	return newPluginOn(addHost(t, newLab(t, nil), "host"), subnets...)
}

func newPluginOn(h *lab.Host, subnets ...string) *pluginHost {
	var ranges [][]map[string]any
	for _, s := range subnets {
		ranges = append(ranges, []map[string]any{{"subnet": s}})
	}
	return &pluginHost{host: h, subnets: prefixesOf(subnets...), conf: map[string]any{
		"cniVersion": "1.1.0", "name": "test", "type": "overlay-cni", "runDir": h.RunDir(),
		"ipam": map[string]any{"ranges": ranges},
	}}
}

// gateways are the bridge's addresses, each with its subnet's length.
func (p *pluginHost) gateways() []netip.Prefix {
	var all []netip.Prefix
	for _, s := range p.subnets {
		all = append(all, netip.PrefixFrom(s.Addr().Next(), s.Bits()))
	}
	return all
}

// with is the configuration with keys replaced; a nil value removes the key.
func (p *pluginHost) with(change map[string]any) []byte {
	conf := maps.Clone(p.conf)
	maps.Copy(conf, change)
	maps.DeleteFunc(conf, func(_ string, v any) bool { return v == nil })
	text, err := json.Marshal(conf)
	if err != nil {
		return nil // of a value that JSON doesn't have; the plugin refuses it
	}
	return text
}

// invocation is one run of the plugin. Zero values are a pod named "pod" with eth0.
type invocation struct {
	command string
	id      string
	netns   string
	ifName  string
	args    string
	stdin   []byte
}

// command is the plugin's process, not started yet.
func (p *pluginHost) command(t *testing.T, r invocation) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(withPatience(t), or(p.program, filepath.Join(programs, "overlay-cni")))
	cmd.Env = []string{"CNI_COMMAND=" + r.command, "CNI_CONTAINERID=" + or(r.id, "pod"), "CNI_NETNS=" + r.netns,
		"CNI_IFNAME=" + or(r.ifName, "eth0"), "CNI_ARGS=" + r.args, "CNI_PATH=" + programs}
	if r.stdin == nil {
		r.stdin = p.with(nil)
	}
	cmd.Stdin = bytes.NewReader(r.stdin)
	return cmd
}

// run runs the plugin and returns what it printed, and the error it reported.
func (p *pluginHost) run(t *testing.T, r invocation) (string, *types.Error) {
	t.Helper()
	cmd := p.command(t, r)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := p.host.Netns().Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if stderr.Len() > 0 {
		t.Errorf("%s printed on stderr: %s", r.command, &stderr)
	}
	if err == nil {
		return stdout.String(), nil
	}
	var reported types.Error
	if json.Unmarshal(stdout.Bytes(), &reported) != nil || reported.Code == 0 {
		t.Fatalf("%s failed without a CNI error: %v, %s", r.command, err, &stdout)
	}
	return stdout.String(), &reported
}

// add runs ADD for a new network namespace.
func (p *pluginHost) add(t *testing.T, id string) (ns *sandbox.Netns, result string) {
	t.Helper()
	ns = sandboxtest.NewNetns(t)
	out, cniErr := p.run(t, invocation{command: "ADD", id: id, netns: ns.Path()})
	if cniErr != nil {
		t.Fatal(cniErr)
	}
	return ns, out
}

func (p *pluginHost) del(t *testing.T, id string) {
	t.Helper()
	out, cniErr := p.run(t, invocation{command: "DEL", id: id})
	if cniErr != nil || out != "" {
		t.Fatalf("DEL of %s: %v, printed %q", id, cniErr, out)
	}
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// snapshot returns everything that ADD may change on a host: interfaces with their
// addresses, host ports, the guard, and the files of the run directory. It leaves out the
// bridge, which stays, and the cursors, which are hints.
func (p *pluginHost) snapshot(t *testing.T) string {
	t.Helper()
	var lines []string
	h := p.host.Handle()
	links, err := h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Type() == "bridge" {
			continue
		}
		addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("link %s %s mtu %d %v", l.Attrs().Name, l.Type(), l.Attrs().MTU, addrs))
	}
	err = filepath.WalkDir(p.host.RunDir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, "/cursors/") {
			lines = append(lines, "file "+path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	lines = append(lines, p.portLines(t)...)
	lines = append(lines, p.guardLines(t)...)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// podUnderTest is a pod with both families, and the result of its ADD.
type podUnderTest struct {
	p      *pluginHost
	ns     *sandbox.Netns
	raw    string
	result types100.Result
}

func newPodUnderTest(t *testing.T) *podUnderTest {
	t.Helper()
	u := &podUnderTest{p: newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")}
	u.ns, u.raw = u.p.add(t, "pod")
	if err := json.Unmarshal([]byte(u.raw), &u.result); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *podUnderTest) check(t *testing.T) *types.Error {
	t.Helper()
	_, cniErr := u.p.run(t, invocation{
		command: "CHECK", netns: u.ns.Path(), stdin: u.p.with(map[string]any{"prevResult": json.RawMessage(u.raw)}),
	})
	return cniErr
}

// netlinkIn is netlink in a namespace, until the test ends or it is closed.
func netlinkIn(t *testing.T, ns *sandbox.Netns) *netlink.Handle {
	t.Helper()
	h, err := ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// addrOf is an address of a result.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// ipNet parses a constant.
func ipNet(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// netfilter is whether the bridge passes packets through the host's firewall
// (br_netfilter), which Kubernetes once required.
type netfilter struct {
	name string
	on   bool
}

// set makes it so on a host.
func (n netfilter) set(t *testing.T, p *pluginHost) {
	t.Helper()
	value := map[bool]string{true: "1", false: "0"}[n.on]
	sandboxtest.Do(t, p.host.Netns(), func() error {
		var errs []error
		for _, name := range []string{"iptables", "ip6tables"} {
			err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte(value), 0o644)
			if errors.Is(err, fs.ErrNotExist) && !n.on {
				err = nil // without the module it is off
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// netfilters are those that this kernel has.
func netfilters(t *testing.T) []netfilter {
	t.Helper()
	all := []netfilter{{"without br_netfilter", false}}
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
		all = append(all, netfilter{"with br_netfilter", true})
	} else {
		t.Log("br_netfilter isn't loaded: nothing is tested with it")
	}
	return all
}

func eachModeAndNetfilter(t *testing.T, test func(t *testing.T, m mode, n netfilter)) {
	t.Helper()
	for _, m := range modes {
		for _, n := range netfilters(t) {
			t.Run(m.name+" "+n.name, func(t *testing.T) { test(t, m, n) })
		}
	}
}

// reach pings an address from a namespace.
func reach(ctx context.Context, t *testing.T, from *sandbox.Netns, to netip.Addr) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := probe.Ping(ctx, from, to)
	return err
}

func rawJSON(text string) json.RawMessage { return json.RawMessage(text) }
