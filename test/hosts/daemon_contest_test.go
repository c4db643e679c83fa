package hosts

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// contests are what another program may undo all the time: the part, and words that
// /readyz says of it.
var contests = []struct {
	name   string
	part   string
	says   string
	damage func(h *lab.Host) error
}{
	{"an address of the tunnel", "tunnel", "delete address 10.9.9.9/32", onHost(tunnel, address("10.9.9.9/32"))},
	{"the tunnel is set down", "tunnel", "set device up " + tunnel, onHost(tunnel, (*netlink.Handle).LinkSetDown)},
	{"the routes to peers", "tunnel", "set route", onHost(tunnel, deleteRoutes)},
	{"an address of the bridge", "bridge", "delete address of cni0: 10.9.9.9/32", onHost("cni0", address("10.9.9.9/32"))},
	{"the firewall's table", "firewall", "", func(h *lab.Host) error {
		return h.Netns().Do(func() error { return exec.Command("nft", "flush table inet overlay-cni").Run() })
	}},
	{"a pod's port", "pods", "", func(h *lab.Host) error { return onPort((*netlink.Handle).LinkSetNoMaster)(h.Handle()) }},
}

func onHost(link string, do func(*netlink.Handle, netlink.Link) error) func(*lab.Host) error {
	return func(h *lab.Host) error { return onLink(link, do)(h.Handle()) }
}

// address puts an address on a link, or leaves it there.
func address(prefix string) func(*netlink.Handle, netlink.Link) error {
	return func(h *netlink.Handle, l netlink.Link) error {
		a, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		return h.AddrReplace(l, a)
	}
}

// undo does the damage every 50 ms, as a daemon does that reacts to notifications. A
// link that is missing for a moment is no error.
func undo(h *lab.Host, damage func(*lab.Host) error) (stop func() error) {
	quit, done := make(chan struct{}), make(chan error, 1)
	go func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		var last error
		for {
			select {
			case <-quit:
				done <- last
				return
			case <-ticker.C:
				last = damage(h)
			}
		}
	}()
	return func() error { close(quit); return <-done }
}

// Another program undoes what the daemon sets. The daemon says so and becomes slow
// about this part, but not about other hosts that join. It recovers by itself.
func TestDaemonInAContest(t *testing.T) {
	t.Parallel()
	for _, c := range contests {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// The short resync bounds the pauses, and so how long the end of the contest
			// takes to notice.
			f := newFleet(t, 2, withHealth, func(l *lab.Config) {
				l.DaemonArgs = append(l.DaemonArgs, "--resync", "3s")
			})
			h, ctx := f.hosts[0], withPatience(t)
			f.eventuallyReady(ctx, h)
			stop := undo(h, c.damage)
			f.eventually(ctx, func(ctx context.Context) error {
				return says(ctx, h, "/readyz", http.StatusOK, "degraded since", ": "+c.part+": another program undoes this again and again: ", c.says)
			})
			f.joinsInAContest(ctx, h)
			f.must(stop())
			f.must(probe.Eventually(ctx, func(ctx context.Context) error {
				return says(ctx, h, "/readyz", http.StatusOK, "network: ok\npods: ok\n")
			}))
			if n := strings.Count(h.Daemon().Log.String(), "nobody undoes the change any more"); n != 1 {
				t.Errorf("the end of the contest is logged %d times", n)
			}
			f.ping(ctx, f.pods[0], f.pods[1])
			// The speed is as before.
			f.must(c.damage(h))
			f.eventually(ctx, func(ctx context.Context) error { return ping(ctx, f.pods[0], f.pods[1]) })
		})
	}
}

// joinsInAContest registers another host, whose routes must come at once: within half
// of the pause, which is the resync interval by then.
func (f *fleet) joinsInAContest(ctx context.Context, h *lab.Host) {
	f.t.Helper()
	f.must(h.Daemon().Log.Wait(ctx, "another program undoes a change again and again"))
	other := addHost(f.t, f.lab, "host-c")
	f.must(f.lab.Register(append(f.hosts, other)...))
	f.eventually(ctx, func(context.Context) error {
		for _, p := range other.Subnets() {
			there, err := h.HasRoute(p)
			if err != nil {
				return err
			}
			if !there {
				return fmt.Errorf("%s has no route to %s", h.Name, p)
			}
		}
		return nil
	})
}
