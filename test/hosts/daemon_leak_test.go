package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/pflag"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/daemon"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/registry/etcd"
	"github.com/overlay-cni/overlay-cni/pkg/registry/file"
	"github.com/overlay-cni/overlay-cni/pkg/registry/kube"
)

// inProcess is a daemon in the test's process. It runs in the sandbox's own
// network namespace, as every thread of the process does.
type inProcess struct {
	t    *testing.T
	ns   *sandbox.Netns
	node entry
	dir  string
}

// newInProcess gives the sandbox an underlay. etcd listens there too.
func newInProcess(t *testing.T) *inProcess {
	t.Helper()
	ns, err := sandbox.OpenNetns("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	p := &inProcess{t: t, ns: ns, dir: t.TempDir(), node: entry{
		"host-x", []netip.Addr{netip.MustParseAddr("192.168.77.254")},
		[]netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd44:0:0:1::/64")},
	}}
	handle, err := ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t}
	f.must(handle.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500}, PeerName: "far"}))
	f.must(onLink("eth0", func(h *netlink.Handle, l netlink.Link) error {
		return errors.Join(h.AddrAdd(l, &netlink.Addr{IPNet: ipNetOf(netip.PrefixFrom(p.node.addresses[0], 24))}), h.LinkSetUp(l),
			h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(192, 168, 77, 1)}))
	})(handle))
	t.Cleanup(func() {
		for _, name := range []string{tunnel, "cni0", "eth0"} {
			f.must(onLink(name, (*netlink.Handle).LinkDel)(handle))
		}
		handle.Close()
		ns.Close()
	})
	return p
}

// opened is a registry and what must be closed after it.
type opened interface {
	registry.Registry
	io.Closer
}

// run runs a daemon until its first round, or until its start failed.
func (p *inProcess) run(open func(config.Config, *slog.Logger) (opened, error), args ...string) (err error) {
	flags := pflag.NewFlagSet("overlayd", pflag.ContinueOnError)
	loader, dir := config.AddFlags(flags), p.t.TempDir()
	if err := flags.Parse(append([]string{"--node-name", p.node.name, "--run-dir", dir, "--log-level", "debug"}, args...)); err != nil {
		return err
	}
	live, err := loader.Watch()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, live.Close()) }()
	c, err := live.Get()
	if err != nil {
		return err
	}
	text := &lockedText{}
	log := slog.New(slog.NewTextHandler(text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	nodes, err := open(c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nodes.Close()) }()
	ctx, cancel := context.WithCancel(withPatience(p.t))
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- daemon.Run(ctx, live, nodes, log) }()
	worked := probe.Eventually(ctx, func(context.Context) error {
		select {
		case err := <-ended:
			ended <- err
			return nil
		default:
		}
		_, err := nodestate.Read(dir)
		if !strings.Contains(text.String(), "msg=reconciled round=pods") {
			err = errors.Join(err, errors.New("no round for pods"))
		}
		return wrapLog(err, text)
	})
	cancel()
	return errors.Join(worked, <-ended)
}

func wrapLog(err error, log *lockedText) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; the log is:\n%s", err, log)
}

// lockedText is a log.
type lockedText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A daemon that ends leaves no goroutine and no open file behind. A leak at its
// end would be a leak at each reconnection.
func TestDaemonLeavesNothingRunning(t *testing.T) {
	p := newInProcess(t)
	f := &fleet{t: t}
	path := filepath.Join(p.dir, "nodes.yaml")
	f.must(os.WriteFile(path, []byte(registryText([]entry{p.node})), 0o644))
	api := newAPIServer(t, p.ns, "127.0.0.1:6443", []entry{p.node})
	kubeconfig := api.kubeconfig()
	store := &etcdServer{fleet: f, ns: p.ns, url: "http://192.168.77.254:2379", dir: t.TempDir(), http: httpIn(p.ns)}
	store.start()
	t.Cleanup(store.stop)
	store.put(withPatience(t), "/overlay-cni/config", "networks: [10.244.0.0/16]\n")
	fromFile := func(config.Config, *slog.Logger) (opened, error) { return file.New(path) }
	fromKube := func(_ config.Config, log *slog.Logger) (opened, error) {
		return kube.New(kube.Options{NodeName: p.node.name, Kubeconfig: kubeconfig, Log: log})
	}
	fromEtcd := func(_ config.Config, log *slog.Logger) (opened, error) {
		return etcd.New(etcd.Options{Endpoints: []string{store.url}, Node: p.node.name, HostID: p.node.name, Log: log})
	}
	for _, tt := range []struct {
		name   string
		open   func(config.Config, *slog.Logger) (opened, error)
		health string
		ends   string // the error that it ends with
	}{
		{"file", fromFile, healthAddress, "<nil>"},
		{"etcd", fromEtcd, healthAddress, "<nil>"},
		{"kube", fromKube, healthAddress, "<nil>"},
		{"a start that fails", fromFile, "192.168.77.254:2379", "choose another address"}, // this one is etcd's
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := *p
			p.t = t
			p.leavesNothing(func() {
				api.start(t.Context())
				err := p.run(tt.open, "--health-address", tt.health)
				api.stop()
				if !strings.Contains(fmt.Sprint(err), tt.ends) {
					t.Fatalf("it ended with %v", err)
				}
			})
		})
	}
}

// leavesNothing runs the daemon several times. Files that Go's runtime opens once
// stay after the first run, and do not count.
func (p *inProcess) leavesNothing(run func()) {
	p.t.Helper()
	const times = 3
	before, files := goleak.IgnoreCurrent(), 0
	for i := range times {
		run()
		goleak.VerifyNone(p.t, before)
		now := openFiles(p.t)
		if i > 0 && now != files {
			p.t.Errorf("run %d left %d open files, and the one before %d", i, now, files)
		}
		files = now
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
