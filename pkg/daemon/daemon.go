package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/health"
	"github.com/overlay-cni/overlay-cni/pkg/host"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/part"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// Settings gives the configuration and says when it changed.
type Settings interface {
	// Get returns the last good configuration. The error beside it says why a newer
	// one was refused.
	Get() (config.Config, error)
	// Share sets what the registry has for all hosts.
	Share(config.Shared)
	// Changed gets a value whenever the result of Get may have changed, except by
	// Share.
	Changed() <-chan struct{}
}

// daemon holds the inputs of the desired state, and the parts that sync it.
type daemon struct {
	settings Settings
	registry registry.Registry
	underlay finder
	// linkExists reports whether the network namespace has an interface of the name.
	linkExists func(name string) bool
	// linkIsUp reports whether it has one that is set up.
	linkIsUp func(name string) bool
	// hasAddress reports whether one of its interfaces has the address.
	hasAddress func(netip.Addr) bool
	network    *part.List[host.Desired]
	pods       *part.List[host.Desired]
	status     *health.Tracker
	log        *slog.Logger
	// end ends the daemon with an error that only a new process can mend.
	end context.CancelCauseFunc
	// These don't change while the daemon runs.
	runDir string
	node   string
	resync time.Duration

	// resynced is when the parts of the network last read everything.
	resynced time.Time
	computed computed
	moves    moves
	// published is what the last round for pods followed.
	published nodestate.State
	logged    logged
	// lost says that the last round for the network didn't find the underlay.
	lost bool
	// next is when the last round asked for another one; zero: it did not.
	next time.Time
}

// finder is an underlay.Finder.
type finder interface {
	Find(underlay.Spec) (underlay.Underlay, error)
	Forget()
}

const (
	// pause is the shortest time between two rounds for the network.
	pause = 50 * time.Millisecond
	// contestPause is the time between two rounds for notifications while another
	// program undoes what a round sets.
	contestPause = time.Second
	// Pods come and go all the time, and nearly all notifications about them are
	// the plugin's own doing, which a round would only disturb. So rounds for pods
	// are rare, but damage is repaired within two seconds.
	podsSettle = 200 * time.Millisecond
	podsPause  = 600 * time.Millisecond
)

// Run keeps the host in the state that the configuration and the registry describe,
// until ctx ends. It returns an error if it can't begin.
func Run(ctx context.Context, settings Settings, nodes registry.Registry, log *slog.Logger) error {
	c, _ := settings.Get() // settings always have a valid configuration
	claim, err := host.Claim()
	if errors.Is(err, host.ErrClaimed) {
		return fmt.Errorf("%w: stop it first", err)
	}
	if err != nil {
		return err
	}
	defer claim.Close()
	links, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer func() { _ = links.Close() }()
	h, err := host.Open(c.RunDir)
	if err != nil {
		return err
	}
	defer h.Close()
	d := newDaemon(c, h.Parts(), log)
	d.settings, d.registry = settings, nodes
	d.underlay = underlay.NewFinder(links)
	d.linkExists = func(name string) bool { _, err := links.Link(name); return err == nil }
	d.hasAddress = hasAddress
	d.linkIsUp = func(name string) bool { l, err := links.Link(name); return err == nil && l.Flags&unix.IFF_UP != 0 }
	return d.run(ctx, c)
}

func newDaemon(c config.Config, parts []part.Part[host.Desired], log *slog.Logger) *daemon {
	return &daemon{
		network: part.NewList(log, c.Resync, part.InRound(host.RoundNetwork, parts)...),
		pods:    part.NewList(log, c.Resync, part.InRound(host.RoundPods, parts)...),
		// Without pods there is no round for pods, and nothing to wait for.
		status: health.NewTracker(host.RoundNetwork),
		runDir: c.RunDir, node: c.NodeName, resync: c.Resync, log: log, logged: logged{},
	}
}

// run runs the loops and their triggers, and returns when all have ended. It returns
// an error if it can't begin, or if only another process can go on.
func (d *daemon) run(parent context.Context, c config.Config) error {
	ctx, end := context.WithCancelCause(parent)
	defer end(nil)
	d.end = end
	var wg sync.WaitGroup
	defer wg.Wait()
	if c.Health != "" {
		l, err := health.Listen(c.Health)
		if err != nil && !d.wasPublished() {
			return err
		}
		wg.Go(func() { d.serveHealth(ctx, c.Health, l, err) })
	}
	d.log.Info("overlayd runs", "node", c.NodeName, "runDir", c.RunDir)
	network := reconcile.New(reconcile.Config{
		Name: host.RoundNetwork, Sync: d.syncNetwork, Resync: d.resync, Pause: pause, Due: d.due, Log: d.log,
	})
	pods := reconcile.New(reconcile.Config{
		Name: host.RoundPods, Sync: d.syncPods, Resync: d.resync, Pause: podsPause, Settle: podsSettle,
		Due: d.pods.Due, Log: d.log,
	})
	for _, task := range d.triggers(network, pods) {
		wg.Go(func() { task(ctx) })
	}
	wg.Go(func() { pods.Run(ctx) })
	network.Run(ctx)
	d.log.Info("overlayd ends, pods stay connected")
	if parent.Err() == nil {
		return context.Cause(ctx)
	}
	return nil
}

// wasPublished reports whether a daemon has set up this host's network since the boot.
// Then what keeps a daemon from doing all of its work is no reason to end: it does the
// rest.
func (d *daemon) wasPublished() bool {
	_, err := nodestate.Last(d.runDir)
	return err == nil
}

// serveHealth answers probes until ctx ends. If the address could not be had, err says
// why, and serveHealth tries again.
func (d *daemon) serveHealth(ctx context.Context, address string, l net.Listener, err error) {
	const again = 5 * time.Second
	if err != nil {
		d.log.Error("can't answer probes, trying again", "err", err, "every", again)
	}
	for err != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
			l, err = health.Listen(address)
		}
	}
	if err := health.Serve(ctx, l, d.status.Handler()); err != nil {
		d.log.Error("stopped answering probes", "err", err)
	}
}
