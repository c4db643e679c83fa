package uninstall

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/host"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/part"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// installation is a host of which the test's namespace and directories are all.
type installation struct {
	t       *testing.T
	links   *netlink.Handle
	dir     string
	options Options
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	sandboxtest.Enter(t)
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(links.Close)
	dir := t.TempDir()
	i := &installation{t: t, links: links, dir: dir, options: Options{
		RunDir:  filepath.Join(dir, "run"),
		Config:  cnifiles.Config{Dir: filepath.Join(dir, "net.d"), Name: cnifiles.DefaultConfName},
		Program: cnifiles.Program{Path: filepath.Join(dir, "bin/overlay-cni")},
	}}
	i.addVeth("eth0", "far")
	eth0 := i.link("eth0")
	address, err := netlink.ParseAddr("192.168.77.1/24")
	i.must(err)
	i.must(links.AddrAdd(eth0, address))
	i.must(links.LinkSetUp(eth0))
	return i
}

func (i *installation) must(err error) {
	i.t.Helper()
	if err != nil {
		i.t.Fatal(err)
	}
}

func (i *installation) link(name string) netlink.Link {
	i.t.Helper()
	l, err := i.links.LinkByName(name)
	i.must(err)
	return l
}

func (i *installation) addVeth(name, peer string) {
	i.t.Helper()
	i.must(i.links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}))
}

// addPort gives a bridge a port.
func (i *installation) addPort(bridge, name string) {
	i.t.Helper()
	i.addVeth(name, "peer")
	i.must(i.links.LinkSetMaster(i.link(name), i.link(bridge)))
}

// install makes everything that a daemon keeps, with devices of these names, and
// the program.
func (i *installation) install(bridge, device string) {
	i.t.Helper()
	eth0 := i.link("eth0").Attrs()
	node := func(name, address, subnet string) registry.Node {
		return registry.Node{Name: name, Addresses: []netip.Addr{netip.MustParseAddr(address)}, Subnets: []netip.Prefix{netip.MustParsePrefix(subnet)}}
	}
	nodes := []registry.Node{node("host-1", "192.168.77.1", "10.244.1.0/24"), node("host-2", "192.168.77.2", "10.244.2.0/24")}
	want, err := host.Compute(host.Input{
		Own: nodes[0], Nodes: nodes,
		Underlay: underlay.Underlay{Name: "eth0", Index: eth0.Index, MTU: eth0.MTU, Address: nodes[0].Addresses[0]},
		Config: config.Config{
			RunDir: i.options.RunDir, Bridge: bridge, Masquerade: true, IPTablesForward: true,
			CNI:   config.CNI{ConfDir: i.options.Config.Dir, ConfName: i.options.Config.Name},
			VXLAN: tunnel.Config{Device: device, VNI: 1, Port: 4789},
		},
	})
	i.must(err)
	h, err := host.Open(i.options.RunDir)
	i.must(err)
	defer h.Close()
	down, degraded := part.NewList(slog.New(slog.DiscardHandler), 0, h.Parts()...).Sync(want)
	i.must(errors.Join(down, degraded))
	i.must(os.MkdirAll(filepath.Dir(i.options.Program.Path), 0o755))
	i.must(os.WriteFile(i.options.Program.Path, []byte("program"), 0o755))
}

// clean returns what was removed.
func (i *installation) clean() ([]string, error) {
	var removed []string
	err := i.options.Clean(func(name string) { removed = append(removed, strings.TrimPrefix(name, i.dir+"/")) })
	return removed, err
}

func (i *installation) removes(want ...string) {
	i.t.Helper()
	removed, err := i.clean()
	if err != nil || !slices.Equal(removed, want) {
		i.t.Errorf("removed %q, want %q: %v", removed, want, err)
	}
}

func (i *installation) refuses(why string) {
	i.t.Helper()
	removed, err := i.clean()
	if err == nil || !strings.Contains(err.Error(), why) || len(removed) > 0 {
		i.t.Errorf("removed %q, with the error %v; want %q", removed, err, why)
	}
}

const conflist, program = "net.d/" + cnifiles.DefaultConfName, "bin/overlay-cni"

func TestCleanGoesBackwards(t *testing.T) {
	i := newInstallation(t)
	i.install("cni0", "overlay0")
	i.removes(conflist, "device overlay0", "table inet overlay-cni", "bridge cni0", "run", program)
	i.removes()
	links, err := i.links.LinkList()
	i.must(err)
	for _, l := range links {
		if name := l.Attrs().Name; !slices.Contains([]string{"lo", "eth0", "far"}, name) {
			t.Errorf("%s is left", name)
		}
	}
}

func TestCleanOfAHostWithNothing(t *testing.T) { newInstallation(t).removes() }

func TestCleanRefusesBesideADaemon(t *testing.T) {
	i := newInstallation(t)
	i.install("cni0", "overlay0")
	claim, err := host.Claim()
	i.must(err)
	i.refuses("overlayd runs on this host (in this network namespace), and would make everything again: stop it first")
	i.must(claim.Close())
	i.removes(conflist, "device overlay0", "table inet overlay-cni", "bridge cni0", "run", program)
}

// Pods are found by their ports, for the records may be lost.
func TestCleanRefusesWhilePodsAreThere(t *testing.T) {
	i := newInstallation(t)
	i.install("cni0", "overlay0")
	port := attachment.Key("c1@eth0").HostName()
	i.addPort("cni0", port)
	i.refuses("pods of this host are on the network: " + port + ": delete them first")
	i.options.Force = true
	i.removes(conflist, "port "+port, "device overlay0", "table inet overlay-cni", "bridge cni0", "run", program)
}

// A part that can't be removed stops no other one. The names of what is left
// stay known for the next time.
func TestCleanGoesOnAfterAFailure(t *testing.T) {
	i := newInstallation(t)
	i.install("br9", "tunnel9")
	i.addPort("br9", "theirs")
	removed, err := i.clean()
	if want := []string{conflist, "device tunnel9", "table inet overlay-cni", program}; !slices.Equal(removed, want) {
		t.Errorf("removed %q, want %q", removed, want)
	}
	if err == nil || err.Error() != "remove bridge: br9 still has ports of other programs: remove the ports first: theirs" {
		t.Error(err)
	}
	i.must(i.links.LinkDel(i.link("theirs")))
	i.removes("bridge br9", "run")
}

func TestCleanLeavesOthersDevicesAlone(t *testing.T) {
	i := newInstallation(t)
	i.addVeth("cni0", "overlay0")
	i.removes()
	i.link("cni0")
	i.link("overlay0")
}

// An uninstall that was killed goes on by the names that the daemon published.
func TestCleanAfterOneThatWasKilled(t *testing.T) {
	i := newInstallation(t)
	i.install("br-pods", "tun7")
	i.must(nodestate.Withdraw(i.options.RunDir))
	i.must(os.Remove(filepath.Join(i.options.Config.Dir, i.options.Config.Name)))
	i.removes("device tun7", "table inet overlay-cni", "bridge br-pods", "run", program)
}

func TestNames(t *testing.T) {
	published := nodestate.State{
		Node: "host-1", Subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, MTU: 1450, Bridge: "published", Device: "published",
	}
	for name, tt := range map[string]struct {
		flag, configured string
		published        bool
		want             string
	}{
		"a flag wins":                       {"flag", "configured", true, "flag"},
		"published before configured":       {"", "configured", true, "published"},
		"configured, where nothing is left": {"", "configured", false, "configured"},
		"defaults, where nothing is known":  {"", "", false, "cni0"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{RunDir: t.TempDir(), Names: Names{Bridge: tt.flag}, Configured: Names{Bridge: tt.configured}}
			if tt.published {
				if _, err := nodestate.Sync(o.RunDir, published); err != nil {
					t.Fatal(err)
				}
			}
			if got := o.was().Bridge.Name; got != tt.want {
				t.Errorf("the bridge is %s, want %s", got, tt.want)
			}
		})
	}
}
