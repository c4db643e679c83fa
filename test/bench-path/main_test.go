package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// programs is the folder of overlay-cni and overlayd.
var programs string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

// runTests builds the programs and runs the tests in a sandbox.
func runTests(m *testing.M) int {
	code := sandboxtest.MainAfter(m, build)
	if err := os.RemoveAll(programs); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func build() (err error) {
	if programs, err = os.MkdirTemp("", "bench-path-"); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", programs+"/", "../../cmd/overlay-cni", "../../cmd/overlayd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("build the programs: %w\n%s", err, out), os.RemoveAll(programs))
	}
	return nil
}
