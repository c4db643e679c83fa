package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/sysctl"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/health"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// syncNetwork does one round: look, compute, and have every part make it so.
func (d *daemon) syncNetwork(context.Context) error {
	// The nodes come first: the settings are known as soon as they are.
	nodes, refused := d.registry.Nodes()
	if r, ok := d.registry.(registry.Sharer); ok {
		d.settings.Share(config.Shared{Name: "the settings in the registry", YAML: r.Settings()})
	}
	c, stale := d.settings.Get()
	unannounced := d.announce(c)
	found := health.Finding{}
	if nodes == nil && refused != nil {
		found.Down = errors.Join(unannounced, refused)
	} else {
		d.waits = ""
		found = d.syncWith(c, nodes)
		found.Degraded = errors.Join(found.Degraded, wrap("the registry", refused))
	}
	found.Degraded = errors.Join(found.Degraded,
		wrap("the configuration stays as it was, because the new one is refused", stale))
	d.board.Set(partNetwork, found)
	if errors.Is(refused, registry.ErrNotReady) {
		return d.await(errors.Join(found.Down, found.Degraded))
	}
	if r, ok := d.registry.(registry.Reporter); ok {
		r.ReportNetwork(found.Down)
	}
	return errors.Join(found.Down, found.Degraded)
}

// await is for the time before the registry's first answer. That is no failure,
// which would be tried again ever more slowly: the registry tells when it has
// answered. Nor is it known whether the network is up: it may well be, from the
// time before a restart.
func (d *daemon) await(why error) error {
	if why.Error() != d.waits {
		d.waits = why.Error()
		d.log.Info("waits for the registry; what was published before goes on", "err", why)
	}
	return nil
}

// announce tells a registry in which hosts enter themselves where this one is.
func (d *daemon) announce(c config.Config) error {
	r, ok := d.registry.(registry.Announcer)
	if !ok {
		return nil
	}
	carrier, err := underlay.Find(d.links, underlay.Spec{Want: c.Underlay, Family: c.UnderlayFamily, Ours: []string{c.Bridge, c.VXLAN.Device}})
	if err != nil {
		return err
	}
	r.SetAddresses(carrier.Addresses)
	return nil
}

// syncWith tells apart what keeps this host's pods from others, and what is
// about single other hosts.
func (d *daemon) syncWith(c config.Config, nodes []registry.Node) health.Finding {
	down := func(err error) health.Finding { return health.Finding{Down: err} }
	own, err := ownNode(d.node, nodes)
	if err != nil {
		// Nor may new pods have addresses of a subnet that this host had: it may
		// come back with another one, and the old one be somebody else's by then.
		return down(errors.Join(err, nodestate.Withdraw(d.runDir)))
	}
	carrier, err := underlay.Find(d.links, underlay.Spec{
		Want: c.Underlay, Family: c.UnderlayFamily, NodeAddrs: own.Addresses, Ours: []string{c.Bridge, c.VXLAN.Device},
		OnLink: c.DirectRouting,
	})
	if err != nil {
		return down(err)
	}
	d.tell(carrier, own)
	published, _ := nodestate.Last(d.runDir) // there may be none yet
	if err := d.movedBridge(c, published); err != nil {
		return down(err)
	}
	want, peers := d.wishes.desire(input{
		config: c, nodes: nodes, own: own, underlay: carrier,
		// An earlier run of this host had the VXLAN device of that name: then
		// the name is ours, whatever became of it.
		claimed: published.Device == c.VXLAN.Device,
	})
	if want.publish.Node == "" {
		return down(peers)
	}
	found := d.apply(want)
	note, apart := d.wishes.families.of(own, nodes)
	found.Degraded = errors.Join(peers, apart, leftOut(own, carrier), found.Degraded)
	found.Note = note
	d.tellFamilies(found.Note)
	return found
}

// leftOut says why others leave this host out: they send to an address of the
// family that carries the tunnel. Another address of that family may be right,
// for the network may translate it.
func leftOut(own registry.Node, u underlay.Underlay) error {
	if slices.ContainsFunc(own.Addresses, func(a netip.Addr) bool { return a.Is4() == u.Address.Is4() }) {
		return nil
	}
	return fmt.Errorf("node %q has the addresses %v in the registry, but the tunnel runs from %s on %s, so that other hosts leave this one out: add an address of that family, or set underlayFamily to the other, on all hosts",
		own.Name, own.Addresses, u.Address, u.Name)
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
func (d *daemon) movedBridge(c config.Config, published nodestate.State) error {
	if published.Bridge == "" || published.Bridge == c.Bridge {
		return nil
	}
	if _, err := d.links.Link(published.Bridge); err != nil {
		return nil // it is gone
	}
	return fmt.Errorf("bridge is %q now and was %q, which has this host's pods: delete them and then it (ip link del %s), or set bridge back",
		c.Bridge, published.Bridge, published.Bridge)
}

// apply has every part make its state so. One that fails doesn't stop the
// others, but pods are only let in when all of this host's parts are there.
//
// The bridge comes before the tunnel: where this host gave its subnet to
// another one, the kernel refuses the route to it as long as the bridge still
// has the addresses.
func (d *daemon) apply(want desired) health.Finding {
	d.doubt()
	bridged := d.note("the bridge")(d.bridge.Sync(want.bridge))
	tunnel := d.note("the tunnel")(d.vxlan.Sync(want.vxlan))
	var peers error
	if errors.Is(tunnel, vxlan.ErrPeers) {
		peers, tunnel = tunnel, nil // no reason to keep this host's pods out
	}
	devices := errors.Join(bridged, tunnel)
	var wanted []sysctl.Parameter
	if devices == nil { // else a name may be that of somebody else's device
		wanted = append(switches(want.routers), deaf(want.vxlan.Device.Name)...)
	}
	err := errors.Join(devices,
		d.note("switches")(sysctl.Sync(wanted)),
		d.syncRules(want.rules))
	if err == nil {
		err = d.publish(want.publish)
	}
	var shadowed error
	if err == nil {
		err = d.admit(want.runtime)
	}
	if errors.Is(err, cnifiles.ErrShadowed) {
		shadowed, err = err, nil // this host's network is in order
	}
	return health.Finding{Down: err, Degraded: errors.Join(peers, shadowed)}
}

// doubt has everything read, once in a resync, that is otherwise believed to be
// as it was as long as the kernel tells of no change.
func (d *daemon) doubt() {
	if now := time.Now(); now.Sub(d.read) >= d.resync {
		d.vxlan.ForceResync()
		d.iptables.ForceResync()
		d.read = now
	}
}

// admit lets pods in: without the file, kubelet gives the host none.
func (d *daemon) admit(c cnifiles.Config) error {
	if c.Dir == "" {
		return nil
	}
	return d.note("the network configuration")(c.Keep())
}

func (d *daemon) publish(s nodestate.State) error {
	published, err := nodestate.Write(d.runDir, s)
	if published {
		d.log.Info("published this node for the plugin", "subnets", s.Subnets, "mtu", s.MTU)
	}
	return wrap("publish for the plugin", err)
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
