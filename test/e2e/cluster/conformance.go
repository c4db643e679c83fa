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
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

// suite is a choice among Kubernetes' own tests, by regular expressions.
type suite struct {
	focus, skip string
	// leftOut are tests of the choice that can't pass on this cluster, with the
	// reason. test/e2e/README.md lists them too.
	leftOut []unable
	// tests is the number of tests: with another version of Kubernetes the
	// expressions may match none, and none would fail. 0: any number.
	tests int
}

// unable is a test that can't pass here.
type unable struct{ test, reason string }

// unfit are tests that need more than this cluster has, or would disturb others.
const unfit = `\[Serial\]|\[Disruptive\]|\[Flaky\]|\[Slow\]`

var (
	conformanceTests = suite{focus: `\[sig-network\].*\[Conformance\]`, skip: unfit + `|\[Feature:`, tests: 47}
	// dualStackTests are not conformance tests, because clusters need not have both
	// families.
	dualStackTests = suite{focus: `\[sig-network\].*\[Feature:IPv6DualStack\]`, skip: unfit + `|\[Feature:SCTP`, tests: 22}
	// wideTests are all others that need no optional feature.
	wideTests = suite{focus: `\[sig-network\]`, skip: unfit + `|\[Feature:|\[Conformance\]`, tests: 84, leftOut: []unable{
		{"[Provider:gce]", "needs Google's cloud"},
	}}
)

// skipped is the expression for all that isn't to run.
func (s suite) skipped() string {
	all := []string{s.skip}
	for _, u := range s.leftOut {
		all = append(all, regexp.QuoteMeta(u.test))
	}
	return strings.Join(all, "|")
}

func conformance(ctx context.Context, o options) error {
	c, err := cluster.Open(o.cluster())
	if err != nil {
		return err
	}
	_, err = runSuite(ctx, c, o, o.suite)
	return err
}

// runSuite runs Kubernetes' tests from the clients' network.
func runSuite(ctx context.Context, c *cluster.Cluster, o options, s suite) (outcome, error) {
	dir := filepath.Join(o.dir, "conformance")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return outcome{}, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return outcome{}, err
	}
	defer log.Close()
	const report = "report.json"
	cmd, err := c.Command(ctx, cluster.Switch, o.e2eBin("ginkgo"),
		fmt.Sprintf("--procs=%d", o.procs), "--no-color", "--timeout=1h", "--json-report="+report, "--output-dir="+dir,
		"--focus="+s.focus, "--skip="+s.skipped(), o.e2eBin("e2e.test"), "--",
		"--provider=skeleton", "--kubeconfig="+c.Kubeconfig(), "--kubectl-path="+o.e2eBin("kubectl"),
		fmt.Sprintf("--num-nodes=%d", len(c.Nodes)-1), "--node-os-distro=custom", "--disable-log-dump", "--allowed-not-ready-nodes=0",
		"--non-blocking-taints=node-role.kubernetes.io/control-plane")
	if err != nil {
		return outcome{}, err
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	endTogether(cmd)
	failed := cmd.Run()
	result, err := printReport(os.Stdout, filepath.Join(dir, report))
	if failed != nil {
		err = errors.Join(fmt.Errorf("tests failed, see %s: %w", log.Name(), failed), err)
	}
	return result, errors.Join(err, s.complete(result))
}

// complete returns an error if fewer or more tests ran than expected.
func (s suite) complete(o outcome) error {
	if ran := o.passed + o.failed; s.tests > 0 && ran != s.tests {
		return fmt.Errorf("%d of Kubernetes' tests ran, expected %d: if its version was changed, look which tests have the labels %s", ran, s.tests, s.focus)
	}
	return nil
}

// printReport prints one line for each test that ran, and how many there were.
func printReport(out io.Writer, path string) (outcome, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return outcome{}, err
	}
	var suites []types.Report
	if err := json.Unmarshal(text, &suites); err != nil {
		return outcome{}, fmt.Errorf("read %s: %w", path, err)
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
	result := outcome{failed: ran.CountWithState(types.SpecStateFailureStates)}
	result.passed = len(ran) - result.failed
	fmt.Fprintf(w, "%s, %s\n", result, total(suites))
	return result, w.Flush()
}

func total(suites []types.Report) time.Duration {
	var sum time.Duration
	for _, s := range suites {
		sum += s.RunTime
	}
	return sum.Round(time.Second)
}
