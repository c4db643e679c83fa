package daemon

import (
	"context"
	"errors"

	"github.com/overlay-cni/overlay-cni/pkg/health"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// syncPods does one round for the pods of this host: with what is published,
// which is what the plugin makes them with. So it needs no registry.
func (d *daemon) syncPods(context.Context) error {
	published, err := nodestate.Read(d.runDir)
	if errors.Is(err, nodestate.ErrNotPublished) {
		return nil // there was never a pod, or this host is not in the network now
	}
	if err != nil {
		d.board.Set(partPods, health.Finding{Degraded: err})
		return err
	}
	err = d.note("pods")(d.pods.Sync(bridgeOf(published.Bridge, published.Subnets, published.MTU)))
	// What is wrong with some pod keeps no other one out.
	d.board.Set(partPods, health.Finding{Degraded: err})
	return err
}
