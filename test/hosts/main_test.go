package hosts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// patience bounds every wait. Nothing waits that long unless it is broken.
const patience = time.Minute

// programs is the folder with the two programs under test.
var programs string

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the programs and runs the tests in a sandbox.
func run(m *testing.M) int {
	code := sandboxtest.MainAfter(m, func() (err error) {
		programs, err = build()
		return err
	})
	if err := os.RemoveAll(programs); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// builder is how a program is built.
type builder struct {
	flags, env []string
}

var (
	plain = builder{env: []string{"CGO_ENABLED=0"}}
	// fastStart is as in the Makefile, but on other architectures.
	fastStart = builder{flags: []string{"-tags=faststart", "-ldflags=-E main.entry"}, env: plain.env}
)

func build() (string, error) {
	dir, err := os.MkdirTemp("", "overlay-cni-hosts-")
	if err != nil {
		return "", err
	}
	for program, how := range map[string]builder{"overlay-cni": fastStart, "overlayd": daemonBuild} {
		if err := how.build(dir, program); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// build builds a program of cmd into a folder.
func (b builder) build(dir, program string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-buildvcs=false"}, b.flags...), "-o", dir+"/", "../../cmd/"+program)...)
	cmd.Env = append(os.Environ(), b.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", program, err, out)
	}
	return nil
}

func withPatience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newLab makes a switch with an IPv4 segment. What change sets is different.
func newLab(t *testing.T, change func(*lab.Config)) *lab.Lab {
	t.Helper()
	c := lab.Config{
		Dir:         t.TempDir(),
		Prefix:      strings.ToLower(rand.Text()[:6]) + "-",
		Segments:    []netip.Prefix{netip.MustParsePrefix("192.168.77.254/24")},
		Outside:     []netip.Addr{netip.MustParseAddr("203.0.113.1")},
		PodNetworks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		MTU:         1500,
		Daemon:      filepath.Join(programs, "overlayd"),
		Plugin:      filepath.Join(programs, "overlay-cni"),
	}
	if change != nil {
		change(&c)
	}
	l, err := lab.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func addHost(t *testing.T, l *lab.Lab, name string) *lab.Host {
	t.Helper()
	h, err := l.AddHost(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
