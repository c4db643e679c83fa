package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

// skipped are tests that need what is not here, or would disturb others.
const skipped = `\[Serial\]|\[Disruptive\]|\[Flaky\]|\[Feature:`

// conformance runs the tests from the clients' network.
func conformance(ctx context.Context, o options) error {
	c, err := cluster.Open(o.cluster())
	if err != nil {
		return err
	}
	dir := filepath.Join(o.dir, "conformance")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	const report = "report.json"
	cmd, err := c.Command(ctx, cluster.Switch, o.e2eBin("ginkgo"),
		fmt.Sprintf("--procs=%d", o.procs), "--no-color", "--timeout=1h", "--json-report="+report, "--output-dir="+dir,
		"--focus="+o.focus, "--skip="+skipped, o.e2eBin("e2e.test"), "--",
		"--provider=skeleton", "--kubeconfig="+c.Kubeconfig(), "--kubectl-path="+o.e2eBin("kubectl"),
		"--num-nodes=2", "--node-os-distro=custom", "--disable-log-dump", "--allowed-not-ready-nodes=0",
		"--non-blocking-taints=node-role.kubernetes.io/control-plane")
	if err != nil {
		return err
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	failed := cmd.Run()
	if err := printReport(os.Stdout, filepath.Join(dir, report)); err != nil {
		return errors.Join(failed, err)
	}
	if failed != nil {
		return fmt.Errorf("tests failed, see %s: %w", log.Name(), failed)
	}
	return nil
}

// printReport prints one line for each test that ran, and how many there were.
func printReport(out io.Writer, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var suites []types.Report
	if err := json.Unmarshal(text, &suites); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	var ran types.SpecReports
	for _, s := range suites {
		ran = append(ran, s.SpecReports.WithLeafNodeType(types.NodeTypeIt).WithState(types.SpecStatePassed|types.SpecStateFailureStates)...)
	}
	slices.SortFunc(ran, func(a, b types.SpecReport) int {
		return cmp.Or(cmp.Compare(a.State, b.State), strings.Compare(a.FullText(), b.FullText()))
	})
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range ran {
		fmt.Fprintf(w, "%s\t%.1f s\t%s\n", r.State, r.RunTime.Seconds(), r.FullText())
	}
	fmt.Fprintf(w, "%d tests, %d failed, %s\n", len(ran), ran.CountWithState(types.SpecStateFailureStates), total(suites))
	return w.Flush()
}

func total(suites []types.Report) time.Duration {
	var sum time.Duration
	for _, s := range suites {
		sum += s.RunTime
	}
	return sum.Round(time.Second)
}
