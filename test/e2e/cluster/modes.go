package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

// mode is a kind of cluster, and the tests that run on it.
type mode struct {
	name  string
	setup cluster.Setup
	suite suite
	own   own
	// extra: it is tested only if it is named.
	extra bool
}

// own is a choice among our tests, by a regular expression; empty: all.
type own struct {
	run string
	// tests is the number of tests, subtests included, as gotestsum counts them. A
	// run with fewer or more has failed, so that tests can't vanish unnoticed. Who adds
	// or removes one changes it: the run's error names the number.
	tests int
}

// modes have each family alone and both together, and each mode of kube-proxy
// that Kubernetes maintains. Our tests go through all families of a cluster, so
// all of them run with both. With one family, those run that depend on the
// underlay's family or on kube-proxy.
var modes = []mode{
	{name: "dual", setup: cluster.Setup{Families: []string{"ipv4", "ipv6"}, Proxy: "iptables"}, suite: dualStackTests, own: own{"", 58}},
	{name: "ipv4", setup: cluster.Setup{Families: []string{"ipv4"}, Proxy: "nftables"}, suite: conformanceTests, own: own{singleFamily, 14}},
	{name: "ipv6", setup: cluster.Setup{Families: []string{"ipv6"}, Proxy: "nftables"}, suite: conformanceTests, own: own{singleFamily, 14}},
	// Some of Kubernetes' tests want three workers.
	{name: "wide", setup: cluster.Setup{Families: []string{"ipv4"}, Proxy: "nftables", Workers: 3}, suite: wideTests, own: own{noTest, 0}, extra: true},
}

const (
	singleFamily = "Reach|MTU|HostPorts|ServiceOfOnePod|KeepsTheSource"
	noTest       = "^$"
)

func modeNames() []string {
	var names []string
	for _, m := range modes {
		names = append(names, m.name)
	}
	return names
}

// chosen returns the modes with these names, or all but the extra ones.
func chosen(names []string) ([]mode, error) {
	for _, name := range names {
		if !slices.Contains(modeNames(), name) {
			return nil, fmt.Errorf("unknown mode %q: there are %v", name, modeNames())
		}
	}
	var all []mode
	for _, m := range modes {
		if len(names) == 0 && !m.extra || slices.Contains(names, m.name) {
			all = append(all, m)
		}
	}
	return all, nil
}

// outcome counts tests.
type outcome struct {
	passed, failed int
}

func (o outcome) String() string { return fmt.Sprintf("%d passed, %d failed", o.passed, o.failed) }

// result is the result of a mode.
type result struct {
	mode
	up        time.Duration
	own, kube outcome
	took      time.Duration
	err       error
}

// testAll tests one mode after another, because two clusters are too much for two
// cores. A mode that fails does not stop the others.
func testAll(ctx context.Context, o options) error {
	all, err := chosen(o.modes)
	if err != nil {
		return err
	}
	var results []result
	var errs []error
	for _, m := range all {
		r := testMode(ctx, o, m)
		results = append(results, r)
		if r.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, r.err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(append(errs, printModes(results))...)
}

func printModes(results []result) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nmode\tkube-proxy\tup\town tests\tKubernetes' tests\tin all\t")
	for _, r := range results {
		verdict := "ok"
		if r.err != nil {
			verdict = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.name, r.setup.Proxy, r.up, r.own, r.kube, r.took, verdict)
	}
	return w.Flush()
}

// testMode makes a cluster, runs all tests on it, and takes it down, however
// they end.
func testMode(ctx context.Context, o options, m mode) (r result) {
	o.setup = m.setup
	r.mode = m
	start := time.Now()
	fmt.Fprintf(os.Stdout, "\n==== %s: families %v, kube-proxy with %s\n", m.name, m.setup.Families, m.setup.Proxy)
	if r.err = cluster.Refuse(o.cluster()); r.err != nil {
		return r // what is there is somebody else's, and stays
	}
	defer func() {
		r.err = errors.Join(r.err, cleanUp(ctx, o, m))
		r.took = time.Since(start).Round(time.Second)
	}()
	if r.err = up(ctx, o); r.err != nil {
		return r
	}
	r.up = time.Since(start).Round(time.Second)
	c, err := cluster.Open(o.cluster())
	if err != nil {
		r.err = err
		return r
	}
	if m.own.run != noTest {
		r.own, r.err = runOwn(ctx, o, m)
	}
	r.kube, err = runSuite(ctx, c, o, m.suite)
	r.err = errors.Join(r.err, err)
	return r
}

// cleanUp takes the cluster down even when this program was told to end, and
// keeps the logs in a folder of the mode's.
func cleanUp(ctx context.Context, o options, m mode) error {
	err := down(context.WithoutCancel(ctx), o)
	kept := filepath.Join(o.dir, m.name)
	err = errors.Join(err, os.RemoveAll(kept), os.MkdirAll(kept, 0o755))
	for _, name := range []string{"log", "conformance"} {
		if renameErr := os.Rename(filepath.Join(o.dir, name), filepath.Join(kept, name)); !errors.Is(renameErr, os.ErrNotExist) {
			err = errors.Join(err, renameErr)
		}
	}
	return err
}
