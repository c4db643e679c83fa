// Package sandboxtest puts the tests of a package into a sandbox.
//
// Invariant: a test of a package that uses Main never runs in the machine's
// own namespaces. Where a sandbox can't be had, no test runs at all: as root
// that is a failure, else the package is skipped, with the reason.
package sandboxtest

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Main runs the tests in a sandbox and returns the exit code:
//
//	func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }
func Main(m Tests) int { return MainAfter(m, func() error { return nil }) }

// Tests are those of a package: a *testing.M, or one that checks more afterwards.
type Tests interface {
	// Run returns the exit code.
	Run() int
}

// MainAfter is Main for tests that need something made first. It is made in
// the sandbox; if that fails, no test runs.
func MainAfter(m Tests, prepare func() error) int {
	// Tests in namespaces wait more than they work, so many run at once, however few
	// the cores. m.Run parses the command line later, which overrides this.
	_ = flag.Set("test.parallel", "10")
	code := 0
	err := sandbox.Run(func() error {
		if err := prepare(); err != nil {
			return err
		}
		code = m.Run()
		return nil
	})
	if err != nil {
		return report(os.Stdout, err)
	}
	return code
}

// report turns an error of sandbox.Run into an exit code. The tests' exit code
// needs no words; a missing sandbox looks like a skipped or a failed test, for
// those who count.
func report(out io.Writer, err error) int {
	var exit *sandbox.ExitError
	if errors.As(err, &exit) {
		return exit.Code
	}
	code, verdict := 1, "FAIL"
	var refused *sandbox.NotAllowedError
	if errors.As(err, &refused) && refused.UID != 0 {
		code, verdict = 0, "SKIP"
	}
	fmt.Fprintf(out, "--- %s: all tests of this package (0.00s)\n    %v\n", verdict, err)
	return code
}

// NewNetns makes a network namespace, with lo up, that goes with the test.
func NewNetns(t testing.TB) *sandbox.Netns {
	t.Helper()
	ns, err := sandbox.CreateNetns(uniqueName())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// Enter moves the calling test into a new network namespace that has no name,
// with lo down. The thread is never unlocked, so it ends with the goroutine of
// the test, and the namespace with it.
func Enter(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
}

// uniqueName is free of the test's own name, which may be longer than a file's
// may be.
func uniqueName() string { return "test-" + strings.ToLower(rand.Text()[:10]) }

// Do runs fn in ns and fails the test if it returns an error. fn runs on
// another goroutine, so it must not call the test's FailNow itself.
func Do(t testing.TB, ns *sandbox.Netns, fn func() error) {
	t.Helper()
	if err := ns.Do(fn); err != nil {
		t.Fatal(err)
	}
}
