package hosts

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// command runs a program on a host.
func (f *fleet) command(h *lab.Host, name string, args ...string) {
	f.t.Helper()
	f.runIn(h.Netns(), append([]string{name}, args...))
}

// runIn runs a program in a network namespace.
func (f *fleet) runIn(ns *sandbox.Netns, args []string) {
	f.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	f.must(ns.Start(cmd))
	if err := cmd.Wait(); err != nil {
		f.t.Fatalf("%s: %v\n%s", cmd, err, out.String())
	}
}

// programs are those of the mode's families.
func (m mode) programs() []string {
	var all []string
	if m.hasIPv4() {
		all = append(all, "iptables")
	}
	if m.hasIPv6() {
		all = append(all, "ip6tables")
	}
	return all
}

// restore replaces the filter tables at once, as firewalls do when they start.
func (f *fleet) restore(h *lab.Host, kind, rules string) {
	f.t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		cmd := exec.Command(program+"-"+kind+"-restore", "--wait")
		cmd.Stdin = strings.NewReader("*filter\n" + rules + "COMMIT\n")
		f.must(h.Netns().Start(cmd))
		f.must(cmd.Wait())
	}
}

// Docker's daemon, firewalls and administrators set iptables' FORWARD to DROP and
// flush the rules of others.
func TestDaemonPassesIPTables(t *testing.T) {
	t.Parallel()
	eachModeAndKind(t, func(t *testing.T, m mode, kind string) {
		f := newFleet(t, 2, m.set, noResync)
		h, ctx := f.hosts[0], withPatience(t)
		neighbor := f.addPod(ctx, h, "neighbor")
		both := func(f *fleet, args ...string) {
			f.t.Helper()
			for _, program := range m.programs() {
				f.command(h, program+"-"+kind, append([]string{"--wait"}, args...)...)
			}
		}
		for _, tt := range []struct {
			name string
			do   func(f *fleet)
		}{
			{"Docker's daemon starts", func(f *fleet) {
				both(f, "-P", "FORWARD", "DROP")
				both(f, "-N", "DOCKER-USER")
				both(f, "-I", "FORWARD", "-j", "DOCKER-USER")
			}},
			{"all rules are flushed", func(f *fleet) { both(f, "-F") }},
			{"our chain is emptied", func(f *fleet) { both(f, "-F", "OVERLAY-CNI-FWD") }},
			{"the table is replaced", func(f *fleet) {
				f.restore(h, kind, ":INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n")
			}},
			{"all is rejected in the end", func(f *fleet) {
				f.restore(h, kind, ":INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n-A FORWARD -j REJECT\n")
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				f, ctx := f.sub(t), withPatience(t)
				tt.do(f)
				f.eventually(ctx, func(ctx context.Context) error {
					return errors.Join(f.getsOut(ctx, neighbor), ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]), ping(ctx, neighbor, f.pods[0]))
				})
			})
		}
	})
}

// eachModeAndKind runs the test with both kinds of iptables.
func eachModeAndKind(t *testing.T, test func(t *testing.T, m mode, kind string)) {
	t.Helper()
	eachMode(t, func(t *testing.T, m mode) {
		for _, kind := range []string{"nft", "legacy"} {
			t.Run(kind, func(t *testing.T) { test(t, m, kind) })
		}
	})
}

// getsOut connects to all of the outside's addresses.
func (f *fleet) getsOut(ctx context.Context, pod *lab.Pod) error {
	var errs []error
	for _, outside := range f.lab.Outside() {
		_, err := probe.Ping(ctx, pod.Netns(), outside)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
