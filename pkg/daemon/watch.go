package daemon

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/monitor"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

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

// watch makes every change in the kernel a trigger.
type watch struct {
	log     *slog.Logger
	resync  time.Duration
	network *reconcile.Loop
	pods    *reconcile.Loop
}

func (w watch) changed(c monitor.Change) {
	if c&monitor.Network != 0 {
		w.network.Trigger()
	}
	if c&monitor.Pods != 0 {
		w.pods.Trigger()
	}
}

func (w watch) routes(ctx context.Context) {
	w.keep(ctx, func() error { return monitor.Watch(ctx, vxlan.OwnProtocol, w.changed) })
}

func (w watch) rules(ctx context.Context) {
	tables := map[monitor.Table]monitor.Change{
		{Family: unix.NFPROTO_INET, Name: firewall.TableName}: monitor.Network,
		{Family: unix.NFPROTO_INET, Name: hostport.TableName}: monitor.Pods,
		// Where iptables keeps what it filters.
		{Family: unix.NFPROTO_IPV4, Name: "filter"}: monitor.Network,
		{Family: unix.NFPROTO_IPV6, Name: "filter"}: monitor.Network,
	}
	w.keep(ctx, func() error { return monitor.WatchRules(ctx, tables, w.changed) })
}

// keep watches until ctx ends. If notifications can't be had, the resync has to
// do.
func (w watch) keep(ctx context.Context, follow func() error) {
	const again = 10 * time.Second
	told := ""
	for ctx.Err() == nil {
		err := follow()
		if err == nil {
			return
		}
		if err.Error() != told {
			told = err.Error()
			w.log.Error("changes in the kernel are noticed late", "err", err, "resync", w.resync)
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}
