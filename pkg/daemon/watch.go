package daemon

import (
	"context"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/filewatch"
	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
	"github.com/overlay-cni/overlay-cni/pkg/guard"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/monitor"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
	"github.com/overlay-cni/overlay-cni/pkg/vxlan"
)

// triggers returns functions that wait for changes and trigger rounds. Each runs
// until ctx ends.
func (d *daemon) triggers(network, pods *reconcile.Loop) []func(ctx context.Context) {
	noticed := func() { d.noticed(network) }
	changed := func(c monitor.Change) {
		if c&monitor.Network != 0 {
			noticed()
		}
		if c&monitor.Pods != 0 {
			pods.Trigger()
		}
	}
	tasks := []func(context.Context){
		func(ctx context.Context) { forward(ctx, d.registry.Changed(), network.Trigger) },
		func(ctx context.Context) { forward(ctx, d.settings.Changed(), network.Trigger) },
		d.keepWatching(func(ctx context.Context) error {
			return monitor.Watch(ctx, vxlan.OwnProtocol, func(c monitor.Change) {
				if c&monitor.Network != 0 {
					d.underlay.Forget()
				}
				changed(c)
			})
		}),
		d.keepWatching(func(ctx context.Context) error { return monitor.WatchRules(ctx, watchedTables(), changed) }),
		d.keepWatching(func(ctx context.Context) error { return d.watchRunDir(ctx, network.Trigger, pods.Trigger) }),
	}
	for _, watch := range d.network.Watches() {
		tasks = append(tasks, d.keepWatching(func(ctx context.Context) error { return watch(ctx, noticed) }))
	}
	return tasks
}

// noticed triggers a round because the kernel reported a change. In a contest most
// notifications come from the other program, so rounds for them are rare.
func (d *daemon) noticed(network *reconcile.Loop) {
	if d.network.Contested() {
		network.TriggerLater(contestPause)
	} else {
		network.Trigger()
	}
}

// watchRunDir notices that somebody else changed the run directory. The plugin's own
// changes trigger rounds for pods, as its changes of the kernel do.
func (d *daemon) watchRunDir(ctx context.Context, published, pods func()) error {
	dir := filepath.Clean(d.runDir)
	folders := append(attachment.Open(dir, network.Default).Folders(), dir)
	return filewatch.Folders(ctx, folders, func(path string) {
		if path == dir || path == nodestate.Path(dir) {
			published()
		}
		pods()
	})
}

// forward calls trigger for each value in changed.
func forward(ctx context.Context, changed <-chan struct{}, trigger func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			trigger()
		}
	}
}

// watchedTables returns the nftables tables that the rounds keep or read.
func watchedTables() map[monitor.Table]monitor.Change {
	return map[monitor.Table]monitor.Change{
		{Family: unix.NFPROTO_INET, Name: firewall.TableName(network.Default)}: monitor.Network,
		{Family: unix.NFPROTO_INET, Name: hostport.TableName}:                  monitor.Pods,
		{Family: unix.NFPROTO_BRIDGE, Name: guard.TableName}:                   monitor.Pods,
		// iptables-nft keeps its table "filter" here.
		{Family: unix.NFPROTO_IPV4, Name: "filter"}: monitor.Network,
		{Family: unix.NFPROTO_IPV6, Name: "filter"}: monitor.Network,
	}
}

// keepWatching restarts a watch after it failed. Until then, the next resync notices
// changes.
func (d *daemon) keepWatching(watch func(context.Context) error) func(context.Context) {
	const again = 10 * time.Second
	return func(ctx context.Context) {
		last := logged{}
		for ctx.Err() == nil {
			err := watch(ctx)
			if err == nil {
				return
			}
			if last.changed("watch", err.Error()) {
				d.log.Error("a watch failed, changes are noticed at the next resync", "err", err, "resync", d.resync)
			}
			select {
			case <-ctx.Done():
			case <-time.After(again):
			}
		}
	}
}
