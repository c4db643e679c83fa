package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// runOwn runs our tests on the cluster, as go test does, but with a program that
// was built before and ends together with this one.
func runOwn(ctx context.Context, o options, m mode) (outcome, error) {
	tests := exec.CommandContext(ctx, o.e2eBin("network.test"), "-test.v=test2json", "-test.timeout=40m", fmt.Sprintf("-test.parallel=%d", o.procs))
	tests.Env = append(os.Environ(), "E2E_DIR="+o.dir, "E2E_BIN="+o.e2eBin(""), "E2E_MANIFEST="+o.manifest)
	if os.Getenv("E2E_PODS") == "" {
		tests.Env = append(tests.Env, "E2E_PODS="+strconv.Itoa(m.pods))
	}
	endTogether(tests)
	report := exec.Command(o.e2eBin("testreport"))
	report.Stdout = os.Stdout
	into, err := report.StdinPipe()
	if err != nil {
		return outcome{}, err
	}
	if err := report.Start(); err != nil {
		return outcome{}, fmt.Errorf("start the report of tests: %w", err)
	}
	var copied bytes.Buffer
	err = runEvents(tests, io.MultiWriter(into, &copied))
	err = errors.Join(err, into.Close(), report.Wait())
	result, countErr := count(&copied)
	return result, errors.Join(err, countErr)
}

// runEvents runs a program of tests and writes what it tells as go test -json
// does.
func runEvents(tests *exec.Cmd, to io.Writer) error {
	events := exec.Command("go", "tool", "test2json", "-t", "-p", "test/e2e/network")
	from, err := tests.StdoutPipe()
	if err != nil {
		return err
	}
	events.Stdin, events.Stdout = from, to
	for _, cmd := range []*exec.Cmd{events, tests} {
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	// It ends with its input, which Wait of the tests would take away from it.
	eventsErr := events.Wait()
	return errors.Join(tests.Wait(), eventsErr)
}

// count counts tests, and not parts of them.
func count(events io.Reader) (o outcome, err error) {
	decoder := json.NewDecoder(events)
	for {
		var e struct{ Action, Test string }
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			return o, nil
		} else if err != nil {
			return o, fmt.Errorf("read what the tests tell: %w", err)
		}
		switch {
		case e.Test == "":
		case e.Action == "pass":
			o.passed++
		case e.Action == "fail":
			o.failed++
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
