package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

const (
	// healing is how long a daemon may take to repair a change that the kernel
	// reported. A busy machine takes seconds; what the daemon does not notice takes
	// until the resync, which is later in all tests that wait for notifications.
	healing = 20 * time.Second
	// settled is how many answers a stream gets before and after an event, so
	// that the event lies within the stream.
	settled = 50

	tunnel  = "overlay0"
	podNet4 = "10.244.0.0/16"
	podNet6 = "fd44::/48"
)

// fleet is a lab whose hosts, host-a, host-b and so on, run a daemon and have
// one pod each.
type fleet struct {
	t     *testing.T
	lab   *lab.Lab
	hosts []*lab.Host
	pods  []*lab.Pod
}

// newFleet makes dual-stack hosts. The changes override that.
func newFleet(t *testing.T, size int, changes ...func(*lab.Config)) *fleet {
	t.Helper()
	f := newIdleFleet(t, size, changes...)
	ctx := withPatience(t)
	for _, h := range f.hosts {
		f.start(ctx, h)
	}
	for _, h := range f.hosts {
		f.pods = append(f.pods, f.addPod(ctx, h, "pod"))
	}
	// Until duplicate address detection of the bridge's link-local address has ended,
	// the kernel resolves no IPv6 neighbours on the bridge and drops packets.
	f.quietOn(ctx, func(link string) bool { return link == "cni0" })
	return f
}

// newFleetWithConfig makes two hosts that follow one configuration file, which is
// empty at first.
func newFleetWithConfig(t *testing.T, set func(*lab.Config)) *fleet {
	t.Helper()
	f := newIdleFleet(t, 2, set, readConfig, noResync)
	f.configure("")
	f.startInTurn()
	return f
}

// newIdleFleet registers hosts and starts nothing on them.
func newIdleFleet(t *testing.T, size int, changes ...func(*lab.Config)) *fleet {
	t.Helper()
	f := &fleet{t: t, lab: newLab(t, func(c *lab.Config) {
		c.PodNetworks = []netip.Prefix{netip.MustParsePrefix(podNet4), netip.MustParsePrefix(podNet6)}
		// The log says when a round has changed nothing.
		c.DaemonArgs = []string{"--log-level", "debug"}
		for _, change := range changes {
			change(c)
		}
	})}
	for i := range size {
		f.hosts = append(f.hosts, addHost(t, f.lab, "host-"+string(rune('a'+i))))
	}
	f.must(f.lab.Register(f.hosts...))
	t.Cleanup(f.showLogs)
	return f
}

func (f *fleet) showLogs() {
	if !f.t.Failed() {
		return
	}
	const lines = 12
	for _, h := range f.hosts {
		if d := h.Daemon(); d != nil {
			f.t.Logf("the log of %s ends with:\n%s", h.Name, strings.Join(d.Log.Tail(lines), "\n"))
		}
	}
}

func (f *fleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// sub returns the fleet for a subtest.
func (f *fleet) sub(t *testing.T) *fleet {
	s := *f
	s.t = t
	return &s
}

// start returns after the daemon's first round without an error.
func (f *fleet) start(ctx context.Context, h *lab.Host, args ...string) *lab.Daemon {
	f.t.Helper()
	d, err := h.StartDaemon(ctx, args...)
	f.must(err)
	f.must(d.Log.Wait(ctx, "msg=reconciled round=network"))
	return d
}

// startInTurn starts each daemon and a pod with it, one host after the other.
func (f *fleet) startInTurn() {
	f.t.Helper()
	for _, h := range f.hosts {
		ctx := withPatience(f.t)
		f.start(ctx, h)
		f.pods = append(f.pods, f.addPod(ctx, h, "pod"))
	}
}

// launch starts a daemon that is expected to fail.
func (f *fleet) launch(h *lab.Host, args ...string) *lab.Daemon {
	f.t.Helper()
	d, err := h.LaunchDaemon(args...)
	f.must(err)
	return d
}

func (f *fleet) stop(ctx context.Context, h *lab.Host) {
	f.t.Helper()
	f.must(h.Daemon().Stop(ctx))
}

func (f *fleet) addPod(ctx context.Context, h *lab.Host, name string) *lab.Pod {
	f.t.Helper()
	p, err := h.AddPod(ctx, lab.PodSpec{Name: name})
	f.must(err)
	return p
}

func (f *fleet) ping(ctx context.Context, from, to *lab.Pod) {
	f.t.Helper()
	f.must(ping(ctx, from, to))
}

// ping sends to all of the addresses.
func ping(ctx context.Context, from, to *lab.Pod) error {
	var errs []error
	for _, a := range to.Addresses {
		_, err := probe.Ping(ctx, from.Netns(), a)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// eventually waits for changes that a daemon makes after a notification.
func (f *fleet) eventually(ctx context.Context, attempt func(context.Context) error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, healing)
	defer cancel()
	f.must(probe.Eventually(ctx, attempt))
}

// talk starts a stream in each direction and family between two pods.
type talk []*probe.Stream

func (f *fleet) talk(ctx context.Context, a, b *lab.Pod) talk {
	f.t.Helper()
	return f.converse(ctx, placeOf(a), placeOf(b))
}

// place is a network namespace with its addresses: a pod, whoever made it.
type place struct {
	ns        *sandbox.Netns
	addresses []netip.Addr
}

func placeOf(p *lab.Pod) place { return place{p.Netns(), p.Addresses} }

// converse is talk for any pods.
func (f *fleet) converse(ctx context.Context, a, b place) talk {
	f.t.Helper()
	var streams talk
	for _, way := range [][2]place{{a, b}, {b, a}} {
		for _, address := range way[1].addresses {
			echo, err := probe.ServeEcho(way[1].ns, netip.AddrPortFrom(address, 0))
			f.must(err)
			f.t.Cleanup(func() { echo.Close() })
			// The kernel keeps only so many packets for a neighbour that has not
			// answered yet: those of a stream that begins too early are lost.
			f.must(probe.Eventually(ctx, func(ctx context.Context) error {
				_, err := probe.UDP(ctx, way[0].ns, echo.Addr)
				return err
			}))
			s, err := probe.StartStream(way[0].ns, echo.Addr)
			f.must(err)
			f.t.Cleanup(func() { s.Stop() })
			streams = append(streams, s)
		}
	}
	f.goesOn(ctx, streams)
	return streams
}

// goesOn returns when every stream has had some more answers.
func (f *fleet) goesOn(ctx context.Context, streams talk) {
	f.t.Helper()
	errs := make(chan error, len(streams))
	for _, s := range streams {
		go func() { errs <- s.Answered(ctx, settled) }()
	}
	for range streams {
		f.must(<-errs)
	}
}

// end fails the test if any packet was lost since the beginning.
func (f *fleet) end(ctx context.Context, streams talk) {
	f.t.Helper()
	f.goesOn(ctx, streams)
	for _, s := range streams {
		if c := s.Stop(); c.Lost > 0 || c.Duplicated > 0 {
			f.t.Errorf("%s, %d duplicated; the longest pause was %s", c, c.Duplicated, c.Gap)
		}
	}
}

// published is what the daemon told the plugin.
func (f *fleet) published(h *lab.Host) nodestate.State {
	f.t.Helper()
	s, err := nodestate.Read(h.RunDir())
	f.must(err)
	return s
}

func (f *fleet) notPublished(h *lab.Host) {
	f.t.Helper()
	if err := unpublished(h); err != nil {
		f.t.Error(err)
	}
}

// unpublished returns nil if the host's daemon has published nothing.
func unpublished(h *lab.Host) error {
	s, err := nodestate.Read(h.RunDir())
	if !errors.Is(err, nodestate.ErrNotPublished) {
		return errors.Join(fmt.Errorf("%s published %+v", h.Name, s), err)
	}
	return nil
}

// configFile is the name of the configuration file of all hosts.
const configFile = "overlayd.yaml"

// readConfig passes that file to the daemons. It must exist when they start.
func readConfig(c *lab.Config) {
	c.DaemonArgs = append(c.DaemonArgs, "--config", filepath.Join(c.Dir, configFile))
}

// configure replaces the configuration file and returns its path.
func (f *fleet) configure(text string) string {
	f.t.Helper()
	path := filepath.Join(filepath.Dir(f.lab.RegistryFile()), configFile)
	f.must(os.WriteFile(path, []byte(text), 0o644))
	return path
}

// entry is a node of the registry.
type entry struct {
	name      string
	addresses []netip.Addr
	subnets   []netip.Prefix
}

func entries(hosts ...*lab.Host) []entry {
	var all []entry
	for _, h := range hosts {
		all = append(all, entry{h.Name, h.Addresses(), h.Subnets()})
	}
	return all
}

// register makes entries the registry's content.
func (f *fleet) register(nodes []entry) {
	f.t.Helper()
	f.must(f.lab.WriteRegistry([]byte(registryText(nodes))))
}

func registryText(nodes []entry) string {
	if len(nodes) == 0 {
		return "nodes: []\n" // a key without a value is a mistake
	}
	text := "nodes:\n"
	for _, n := range nodes {
		text += fmt.Sprintf("- name: %s\n  addresses: [%s]\n  podSubnets: [%s]\n", n.name, quoted(n.addresses), quoted(n.subnets))
	}
	return text
}

// translated is the registry of nodes of which the first is behind NAT.
func translated(nodes []entry) string {
	first := "- name: " + nodes[0].name + "\n"
	return strings.Replace(registryText(nodes), first, first+"  nat: true\n", 1)
}

func quoted[T fmt.Stringer](values []T) string {
	var all []string
	for _, v := range values {
		all = append(all, fmt.Sprintf("%q", v.String()))
	}
	return strings.Join(all, ", ")
}

// on runs fn inside a namespace.
func (f *fleet) on(ns *sandbox.Netns, fn func() error) {
	f.t.Helper()
	f.must(ns.Do(fn))
}
