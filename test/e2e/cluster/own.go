package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// runOwn runs our tests on the cluster, as go test does, but with a program that
// was built before and ends together with this one.
func runOwn(ctx context.Context, o options, m mode) (outcome, error) {
	events := filepath.Join(o.dir, "events.json")
	tests := exec.CommandContext(ctx, o.e2eBin("gotestsum"), "--format=standard-quiet", "--jsonfile="+events, "--raw-command", "--",
		"go", "tool", "test2json", "-t", "-p", "test/e2e/network",
		o.e2eBin("network.test"), "-test.v=test2json", "-test.timeout=40m", "-test.run="+m.own.run, fmt.Sprintf("-test.parallel=%d", o.procs))
	tests.Env = append(os.Environ(), "E2E_DIR="+o.dir, "E2E_BIN="+o.e2eBin(""), "E2E_MANIFEST="+o.manifest)
	tests.Stdout, tests.Stderr = os.Stdout, os.Stderr
	endTogether(tests)
	err := tests.Run()
	result, countErr := countFile(events)
	return result, errors.Join(err, countErr, m.own.complete(result))
}

// complete returns an error if fewer or more tests ran than expected.
func (s own) complete(o outcome) error {
	if ran := o.passed + o.failed; ran != s.tests {
		return fmt.Errorf("%d of our tests ran, expected %d: if tests were added or removed, say so in modes, in test/e2e/cluster/modes.go", ran, s.tests)
	}
	return nil
}

func countFile(path string) (outcome, error) {
	events, err := os.Open(path)
	if err != nil {
		return outcome{}, err
	}
	defer events.Close()
	return count(events)
}

// count counts tests and their subtests, as gotestsum does, which prints the same
// number. A skipped test is a failure: all of them can run.
func count(events io.Reader) (outcome, error) {
	var o outcome
	var skipped error
	decoder := json.NewDecoder(events)
	for {
		var e struct{ Action, Test string }
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			return o, skipped
		} else if err != nil {
			return o, fmt.Errorf("read the tests' events: %w", err)
		}
		switch {
		case e.Test == "":
		case e.Action == "pass":
			o.passed++
		case e.Action == "fail":
			o.failed++
		case e.Action == "skip":
			o.failed++
			skipped = errors.Join(skipped, fmt.Errorf("%s was skipped", e.Test))
		}
	}
}

// endTogether lets a program's own children end together with it, when the
// context ends.
func endTogether(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &unix.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
}
