package etcd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// The sandbox is for its loopback interface: every port is free there, and
// servers end with it however the tests end.
func TestMain(m *testing.M) {
	os.Exit(sandboxtest.MainAfter(closed{m}, func() error {
		_, err := os.Stat(program())
		if err != nil {
			return fmt.Errorf("these tests need an etcd server: run make bin/etcd, or name one in OVERLAY_CNI_ETCD: %w", err)
		}
		return nil
	}))
}

// closed fails the tests if any of them leaves goroutines behind. Goroutines
// belong to no test, so they are counted when all tests that ran side by side have
// ended.
type closed struct{ *testing.M }

func (m closed) Run() int {
	ignore := goleak.IgnoreCurrent()
	code := m.M.Run()
	if err := goleak.Find(ignore); err != nil {
		fmt.Fprintln(os.Stdout, "FAIL: tests left goroutines behind:", err)
		return max(code, 1)
	}
	return code
}

// program is the etcd server: that of the environment, else the one that make
// put into the bin folder of the repository.
func program() string {
	if path := os.Getenv("OVERLAY_CNI_ETCD"); path != "" {
		return path
	}
	dir, _ := os.Getwd()
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	return filepath.Join(dir, "bin", "etcd")
}
