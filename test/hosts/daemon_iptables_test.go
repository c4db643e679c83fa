package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// command runs a program on a host.
func (f *fleet) command(h *lab.Host, name string, args ...string) {
	f.t.Helper()
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	f.must(h.Netns().Start(cmd))
	if err := cmd.Wait(); err != nil {
		f.t.Fatalf("%s: %v\n%s", cmd, err, out.String())
	}
}

// restore replaces the tables filter as firewalls do when they start: at once.
func (f *fleet) restore(h *lab.Host, kind, rules string) {
	f.t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		cmd := exec.Command(program + "-" + kind + "-restore")
		cmd.Stdin = strings.NewReader("*filter\n" + rules + "COMMIT\n")
		f.must(h.Netns().Start(cmd))
		f.must(cmd.Wait())
	}
}

// Docker's daemon, firewalls and people set iptables' FORWARD to DROP, and flush
// what others put there.
func TestDaemonPassesIPTables(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			f := newFleet(t, 2, noResync)
			h, ctx := f.hosts[0], withPatience(t)
			neighbor := f.addPod(ctx, h, "neighbor")
			both := func(f *fleet, args ...string) {
				f.t.Helper()
				for _, program := range []string{"iptables", "ip6tables"} {
					f.command(h, program+"-"+kind, args...)
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
						_, outside := probe.Ping(ctx, neighbor.Netns(), f.lab.Outside()[0])
						return errors.Join(outside, ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]), ping(ctx, neighbor, f.pods[0]))
					})
				})
			}
		})
	}
}

// Kernels without nf_tables masquerade by iptables; here by choice.
func TestDaemonMasqueradesByIPTables(t *testing.T) {
	f := newIdleFleet(t, 2, func(c *lab.Config) {
		noResync(c)
		c.Outside = append(c.Outside, netip.MustParseAddr("2001:db8::1"))
		c.Segments = append(c.Segments, netip.MustParsePrefix("fd77::fe/64"))
	})
	for _, h := range f.hosts {
		ctx := withPatience(t)
		f.start(ctx, h, "--firewall", "iptables")
		f.pods = append(f.pods, f.addPod(ctx, h, "pod"))
	}
	ctx := withPatience(t)
	works := func(ctx context.Context) error {
		errs := []error{ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0])}
		for _, outside := range f.lab.Outside() {
			_, err := probe.Ping(ctx, f.pods[0].Netns(), outside)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	f.eventually(ctx, works)
	if table := f.tableOf(f.hosts[0]); table {
		t.Error("there is a table of nftables as well")
	}
	f.command(f.hosts[0], "iptables-legacy", "-t", "nat", "-F")
	f.command(f.hosts[0], "ip6tables-legacy", "-t", "nat", "-F")
	f.eventually(ctx, works)
	// Back again: nothing is left of the rules in iptables.
	f.stop(ctx, f.hosts[0])
	f.start(ctx, f.hosts[0], "--firewall", "nftables")
	f.eventually(ctx, works)
	if !f.tableOf(f.hosts[0]) {
		t.Error("there is no table of nftables")
	}
	var out bytes.Buffer
	cmd := exec.Command("iptables-legacy-save")
	cmd.Stdout = &out
	f.must(f.hosts[0].Netns().Start(cmd))
	f.must(cmd.Wait())
	if bytes.Contains(out.Bytes(), []byte("MASQUERADE")) {
		t.Errorf("iptables still masquerades:\n%s", out.String())
	}
}

// tableOf tells whether a host has our table of nftables.
func (f *fleet) tableOf(h *lab.Host) bool {
	f.t.Helper()
	lines := fmt.Sprint(f.state(h))
	return bytes.Contains([]byte(lines), []byte("table present true"))
}
