package hosts

import (
	"context"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab"
)

// A daemon that ends changes nothing. A daemon that starts changes nothing that
// is right: the kernel reports no change, and no packet is lost.
func TestDaemonRestartChangesNothing(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newFleet(t, 2, m.set)
		f.quiet(withPatience(t))
		for name, end := range map[string]func(context.Context, *lab.Daemon) error{
			"SIGTERM": func(ctx context.Context, d *lab.Daemon) error { return d.Stop(ctx) }, // fails unless the exit code is 0
			"SIGKILL": func(_ context.Context, d *lab.Daemon) error { return d.Kill() },
		} {
			t.Run(name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				streams := f.talk(ctx, f.pods[0], f.pods[1])
				var before [][]string
				var recorders []*recorder
				for _, h := range f.hosts {
					before, recorders = append(before, f.state(h)), append(recorders, f.record(h))
					f.must(end(ctx, h.Daemon()))
				}
				f.goesOn(ctx, streams)
				for _, h := range f.hosts {
					d := f.start(ctx, h)
					if log := d.Log.String(); strings.Contains(log, "changed") || strings.Contains(log, "published") {
						t.Errorf("%s logs a change:\n%s", h.Name, log)
					}
				}
				f.end(ctx, streams)
				for i, h := range f.hosts {
					if messages := recorders[i].messages(); len(messages) > 0 {
						t.Errorf("%s: the kernel tells of changes:\n%s", h.Name, strings.Join(messages, "\n"))
					}
					f.sameState(before[i], f.state(h))
				}
			})
		}
	})
}

// The plugin works without a daemon, by what the last one published.
func TestDaemonDownPodsComeAndGo(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 2, m.set), withPatience(t)
		for _, h := range f.hosts {
			f.stop(ctx, h)
		}
		late := f.addPod(ctx, f.hosts[0], "late")
		f.ping(ctx, late, f.pods[1])
		f.ping(ctx, f.pods[1], late)
		f.must(late.Delete(ctx))
		for _, h := range f.hosts {
			f.start(ctx, h)
		}
		f.ping(ctx, f.pods[0], f.pods[1])
	})
}
