package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/health"
	"github.com/overlay-cni/overlay-cni/pkg/iptables"
	"github.com/overlay-cni/overlay-cni/pkg/pods"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// Settings gives the configuration and says when it changed.
type Settings interface {
	// Get returns the last good configuration, and beside it why a newer one
	// was refused.
	Get() (config.Config, error)
	// Share says what the registry has for all hosts.
	Share(config.Shared)
	// Changed gets a value whenever Get may answer differently than before,
	// but for Share.
	Changed() <-chan struct{}
}

// daemon holds where the desired state comes from and the parts of the kernel
// that it goes to.
type daemon struct {
	settings Settings
	// runDir and node don't change while the daemon runs.
	runDir   string
	node     string
	registry registry.Registry
	log      *slog.Logger

	links    *rtnl.Conn
	vxlan    *vxlan.Kernel
	bridge   *bridge.Kernel
	firewall *firewall.Kernel
	iptables *iptables.Kernel
	pods     *pods.Host
	board    *health.Board
	// sole is held for as long as the daemon runs, see claimHost.
	sole net.Listener
	// chosen is what the log said last of the underlay, and waits of the registry.
	chosen, waits string
	// families is what the log said last of nodes with one family alone.
	families string
	wishes   wishes
	// read is when everything in the kernel was read last, which is due after
	// resync.
	read   time.Time
	resync time.Duration
}

// The parts, as the log and probes name them.
const (
	partNetwork = "network"
	partPods    = "pods"
)

const (
	// pause is the shortest time between two rounds for the network.
	pause = 50 * time.Millisecond
	// Pods come and go all the time, and what is told of them is nearly always
	// the plugin's own work, which a round would only disturb. So rounds for
	// pods are few, but what somebody broke is mended in two seconds.
	podsSettle = 200 * time.Millisecond
	podsPause  = 600 * time.Millisecond
)

// Run keeps the host in the state that configuration and registry ask for,
// until ctx ends. It returns an error if it can't begin.
func Run(ctx context.Context, settings Settings, nodes registry.Registry, log *slog.Logger) error {
	c, _ := settings.Get() // there is one, or the program would not be here
	d, err := open(c, nodes, log)
	if err != nil {
		return err
	}
	defer d.close()
	d.settings = settings
	log.Info("overlayd runs", "node", c.NodeName, "runDir", c.RunDir)
	tasks := []func(context.Context) error{}
	if c.Health != "" {
		l, err := health.Listen(c.Health)
		if err != nil {
			return err
		}
		tasks = append(tasks, func(ctx context.Context) error { return health.Serve(ctx, l, d.board.Handler()) })
	}
	d.resync = c.Resync
	d.run(ctx, tasks)
	log.Info("overlayd ends, the data path stays")
	return nil
}

// run runs the loops and what triggers them, and returns when all have ended.
func (d *daemon) run(ctx context.Context, tasks []func(context.Context) error) {
	network := reconcile.New(reconcile.Config{
		What: partNetwork, Sync: d.syncNetwork, Resync: d.resync, Pause: pause, Log: d.log,
	})
	pods := reconcile.New(reconcile.Config{
		What: partPods, Sync: d.syncPods, Resync: d.resync, Pause: podsPause, Settle: podsSettle, Log: d.log,
	})
	w := watch{log: d.log, resync: d.resync, network: network, pods: pods}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { forward(ctx, d.registry.Changed(), network) })
	wg.Go(func() { forward(ctx, d.settings.Changed(), network) })
	wg.Go(func() { w.routes(ctx) })
	wg.Go(func() { w.keep(ctx, func() error { return d.vxlan.Watch(ctx, network.Trigger) }) })
	wg.Go(func() { w.rules(ctx) })
	wg.Go(func() { w.keep(ctx, func() error { return d.iptables.Watch(ctx, network.Trigger) }) })
	wg.Go(func() { pods.Run(ctx) })
	for _, task := range tasks {
		wg.Go(func() {
			if err := task(ctx); err != nil {
				d.log.Error("a part of overlayd ended", "err", err)
			}
		})
	}
	network.Run(ctx)
}

func open(c config.Config, nodes registry.Registry, log *slog.Logger) (*daemon, error) {
	d := &daemon{
		runDir: c.RunDir, node: c.NodeName, registry: nodes, log: log, firewall: firewall.New(), iptables: iptables.New(),
		board: health.NewBoard(partNetwork),
	}
	err := d.openKernel()
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// openKernel leaves what it opened to close, if it fails on its way.
func (d *daemon) openKernel() (err error) {
	if d.sole, err = claimHost(); err != nil {
		return err
	}
	if d.links, err = rtnl.Open(); err != nil {
		return err
	}
	if d.vxlan, err = vxlan.Open(); err != nil {
		return err
	}
	if d.bridge, err = bridge.Open(); err != nil {
		return err
	}
	d.pods, err = pods.Open(d.runDir)
	return err
}

// claimHost makes sure that one daemon runs in a network namespace: two would
// undo each other's work for ever. An abstract socket belongs to the namespace
// and goes with the process, however that ends (unix(7)).
func claimHost() (net.Listener, error) {
	sole, err := net.Listen("unix", "@overlay-cni/overlayd")
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, errors.New("another overlayd runs on this host (in this network namespace): stop it first")
	}
	return sole, wrap("claim this host", err)
}

// close closes what is open.
func (d *daemon) close() {
	if d.pods != nil {
		d.pods.Close()
	}
	if d.bridge != nil {
		d.bridge.Close()
	}
	if d.vxlan != nil {
		_ = d.vxlan.Close()
	}
	if d.links != nil {
		_ = d.links.Close()
	}
	if d.sole != nil {
		_ = d.sole.Close()
	}
}
