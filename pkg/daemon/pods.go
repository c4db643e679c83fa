package daemon

import (
	"context"

	"github.com/overlay-cni/overlay-cni/pkg/health"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// syncPods does one round for the pods of this host: with what is published,
// which is what the plugin makes them with. So it needs no registry.
func (d *daemon) syncPods(context.Context) error {
	published, err := nodestate.Read(d.runDir)
	if err != nil {
		return nil // there was never a pod, or the round for the network writes it anew
	}
	err = d.note("pods")(d.pods.Sync(bridgeOf(published.Bridge, published.Subnets, published.MTU)))
	// What is wrong with some pod keeps no other one out.
	d.board.Set(partPods, health.Finding{Degraded: err})
	return err
}
