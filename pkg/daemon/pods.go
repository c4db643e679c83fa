package daemon

import (
	"context"
	"errors"
	"reflect"

	"github.com/overlay-cni/overlay-cni/pkg/health"
	"github.com/overlay-cni/overlay-cni/pkg/host"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// syncPods does one round for the pods of this host. Its input is the published
// state, which the plugin uses too, so the round needs no registry.
func (d *daemon) syncPods(context.Context) error {
	published, err := nodestate.Read(d.runDir)
	if errors.Is(err, nodestate.ErrNotPublished) {
		return nil // there was never a pod, or this host is not in the network now
	}
	if err != nil {
		d.status.Set(host.RoundPods, health.Status{Degraded: err})
		return err
	}
	if !reflect.DeepEqual(published, d.published) {
		d.published = published
		d.pods.Renew()
	}
	down, degraded := d.pods.Sync(host.Desired{
		Bridge:    host.BridgeOf(published.Bridge, published.Subnets, published.MTU),
		Unguarded: published.Unguarded,
	})
	d.status.Set(host.RoundPods, health.Status{Down: down, Degraded: degraded, Parts: d.pods.Numbers()})
	return errors.Join(down, degraded)
}
