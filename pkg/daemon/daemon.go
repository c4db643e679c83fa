package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/monitor"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// daemon holds where the desired state comes from and the parts of the kernel
// that it goes to.
type daemon struct {
	config   config.Config
	registry registry.Registry
	log      *slog.Logger

	links    *rtnl.Conn
	vxlan    *vxlan.Kernel
	bridge   *bridge.Kernel
	firewall *firewall.Kernel
	// sole is held for as long as the daemon runs, see claimHost.
	sole net.Listener
	// chosen is what the log said last of the underlay.
	chosen string
	// tunnel is the interface index of the VXLAN device, for the monitor.
	tunnel atomic.Int64
}

// Run keeps the host in the state that configuration and registry ask for,
// until ctx ends. It returns an error if it can't begin.
func Run(ctx context.Context, c config.Config, nodes registry.Registry, log *slog.Logger) error {
	d, err := open(c, nodes, log)
	if err != nil {
		return err
	}
	defer d.close()
	log.Info("overlayd runs", "node", c.NodeName, "runDir", c.RunDir)
	loop := reconcile.New(d.sync, c.Resync, log)
	var wg sync.WaitGroup
	wg.Go(func() { forward(ctx, nodes.Changed(), loop) })
	wg.Go(func() { d.watchKernel(ctx, loop) })
	loop.Run(ctx)
	wg.Wait()
	log.Info("overlayd ends, the data path stays")
	return nil
}

func open(c config.Config, nodes registry.Registry, log *slog.Logger) (*daemon, error) {
	sole, err := claimHost()
	if err != nil {
		return nil, err
	}
	links, err := rtnl.Open()
	if err != nil {
		return nil, errors.Join(err, sole.Close())
	}
	tunnel, err := vxlan.Open()
	if err != nil {
		return nil, errors.Join(err, sole.Close(), links.Close())
	}
	ports, err := bridge.Open()
	if err != nil {
		return nil, errors.Join(err, sole.Close(), links.Close(), tunnel.Close())
	}
	return &daemon{
		config: c, registry: nodes, log: log, sole: sole,
		links: links, vxlan: tunnel, bridge: ports, firewall: firewall.New(),
	}, nil
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

func (d *daemon) close() {
	d.bridge.Close()
	_ = d.vxlan.Close()
	_ = d.links.Close()
	_ = d.sole.Close()
}

// forward makes every change of the registry a trigger.
func forward(ctx context.Context, changed <-chan struct{}, loop *reconcile.Loop) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			loop.Trigger()
		}
	}
}

// watchKernel makes every change in the kernel a trigger. If notifications
// can't be had, the resync has to do.
func (d *daemon) watchKernel(ctx context.Context, loop *reconcile.Loop) {
	const again = 10 * time.Second
	for ctx.Err() == nil {
		err := monitor.Watch(ctx, func() int { return int(d.tunnel.Load()) }, loop.Trigger)
		if err == nil {
			return
		}
		d.log.Error("changes in the kernel are noticed late", "err", err, "resync", d.config.Resync)
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

// sync does one round: look, compute, and have every part make it so.
func (d *daemon) sync(context.Context) error {
	nodes, refused := d.registry.Nodes()
	if nodes == nil && refused != nil {
		return refused
	}
	refused = wrap("the nodes stay as they were, because what the registry says now is refused", refused)
	own, err := ownNode(d.config.NodeName, nodes)
	if err != nil {
		return errors.Join(refused, err)
	}
	carrier, err := underlay.Find(d.links, underlay.Spec{
		Want: d.config.Underlay, NodeAddrs: own.Addresses, Ours: []string{d.config.Bridge, d.config.VXLAN.Device},
	})
	if err != nil {
		return errors.Join(refused, err)
	}
	d.tell(carrier, own)
	published, _ := nodestate.Read(d.config.RunDir) // there may be none yet
	if err := d.movedBridge(published); err != nil {
		return errors.Join(refused, err)
	}
	want, peers := desire(input{
		config: d.config, nodes: nodes, own: own, underlay: carrier,
		// An earlier run of this host had the VXLAN device of that name: then
		// the name is ours, whatever became of it.
		claimed: published.Device == d.config.VXLAN.Device,
	})
	if want.publish.Node == "" {
		return errors.Join(refused, peers)
	}
	return errors.Join(refused, peers, d.apply(want))
}

// tell logs which underlay was chosen, when that changes.
func (d *daemon) tell(u underlay.Underlay, own registry.Node) {
	chosen := fmt.Sprintf("%s %s", u.Name, u.Address)
	if chosen == d.chosen {
		return
	}
	d.chosen = chosen
	d.log.Info("the tunnel runs over", "interface", u.Name, "address", u.Address, "mtu", u.MTU)
	if !slices.Contains(own.Addresses, u.Address) {
		d.log.Warn("other hosts send to another address than the tunnel's own: is the registry right?",
			"registry", own.Addresses, "tunnel", u.Address)
	}
}

// movedBridge refuses a new name for the bridge while pods are on the old one:
// both would have the same subnet, and the pods of one of them no way out.
func (d *daemon) movedBridge(published nodestate.State) error {
	if published.Bridge == "" || published.Bridge == d.config.Bridge {
		return nil
	}
	if _, err := d.links.Link(published.Bridge); err != nil {
		return nil // it is gone
	}
	return fmt.Errorf("bridge is %q now and was %q, which has this host's pods: delete them and then it (ip link del %s), or set bridge back",
		d.config.Bridge, published.Bridge, published.Bridge)
}

// apply has every part make its state so. One that fails doesn't stop the
// others, but pods are only let in when all of this host's parts are there.
//
// The bridge comes before the tunnel: where this host gave its subnet to
// another one, the kernel refuses the route to it as long as the bridge still
// has the addresses.
func (d *daemon) apply(want desired) error {
	bridged := d.note("the bridge")(d.bridge.Sync(want.bridge))
	tunnel := d.syncTunnel(want.vxlan)
	var peers error
	if errors.Is(tunnel, vxlan.ErrPeers) {
		peers, tunnel = tunnel, nil // no reason to keep this host's pods out
	}
	devices := errors.Join(bridged, tunnel)
	var switches []sysctl.Parameter
	if devices == nil { // else a name may be that of somebody else's device
		switches = want.ports
	}
	err := errors.Join(devices,
		d.note("forwarding")(sysctl.Ensure(switches)),
		d.note("the firewall")(d.firewall.Sync(want.firewall)))
	if err != nil {
		return errors.Join(err, peers)
	}
	published, err := nodestate.Write(d.config.RunDir, want.publish)
	if published {
		d.log.Info("published this node for the plugin", "subnets", want.publish.Subnets, "mtu", want.publish.MTU)
	}
	return errors.Join(wrap("publish for the plugin", err), peers)
}

// syncTunnel also tells the monitor which neighbours concern us.
func (d *daemon) syncTunnel(want vxlan.State) error {
	changes, err := d.vxlan.Sync(want)
	if len(changes) > 0 {
		d.log.Info("changed the tunnel", "changes", changes.String())
	}
	if link, err := d.links.Link(want.Device.Name); err == nil {
		d.tunnel.Store(int64(link.Index))
	}
	return wrap("the tunnel", err)
}

// note logs what a part changed and says of which part an error is.
func (d *daemon) note(part string) func([]string, error) error {
	return func(changes []string, err error) error {
		if len(changes) > 0 {
			d.log.Info("changed "+part, "changes", strings.Join(changes, ", "))
		}
		return wrap(part, err)
	}
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
