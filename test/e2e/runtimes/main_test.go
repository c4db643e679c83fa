package runtimes

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

const (
	// buildEnv names the directory with the programs that were built for the
	// tests; it is set outside of the sandbox.
	buildEnv = "OVERLAY_RUNTIMES_BUILD"
	// testerEnv tells the program that it is the one that runs the tests, as a
	// child of the sandbox's first process.
	testerEnv = "OVERLAY_RUNTIMES_TESTER"
)

func TestMain(m *testing.M) { os.Exit(start(m)) }

// start runs the tests three processes deep: this one builds and owns the
// cgroups; the second is the first of the sandbox, and reaps what the runtimes'
// daemons leave to it; the third tests.
func start(m *testing.M) int {
	if os.Getenv(testerEnv) != "" {
		return m.Run()
	}
	err := outside()
	var exit *sandbox.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.Code
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func outside() error {
	if sandbox.Inside() || os.Getpid() == 1 {
		return sandbox.Run(inside)
	}
	if os.Geteuid() != 0 {
		return errors.New("container runtimes need root: run it as `sudo make test-runtimes`")
	}
	if err := errors.Join(requirePrograms(), requirePlugin()); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "overlay-runtimes-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(build(dir), os.Setenv(buildEnv, dir)); err != nil {
		return err
	}
	groups, err := joinCgroups(filepath.Base(dir))
	if err != nil {
		return errors.Join(err, groups.leave())
	}
	err = sandbox.Run(inside)
	return errors.Join(err, groups.leave())
}

// packages are the Debian packages that have the programs.
var packages = map[string]string{
	"containerd": "containerd", "ctr": "containerd", "runc": "runc", "podman": "podman", "conmon": "conmon",
	"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "dockerd": "docker.io", "docker": "docker.io", "iptables-nft": "iptables", "iptables-legacy": "iptables", "nsenter": "util-linux", "unshare": "util-linux", "/usr/lib/cni/loopback": "containernetworking-plugins",
}

func requirePrograms() error {
	missing := map[string]bool{}
	for program, pkg := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing[pkg] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(missing))
	return fmt.Errorf("Debian packages are missing: sudo apt-get install --no-install-recommends %s", strings.Join(names, " "))
}

// pluginPath is where make build puts the plugin, or what the environment says.
func pluginPath() string {
	return cmp.Or(os.Getenv("OVERLAY_CNI"), "../../../bin/overlay-cni")
}

// daemonPath is where overlayd is: beside the plugin.
func daemonPath() string { return filepath.Join(filepath.Dir(pluginPath()), "overlayd") }

func requirePlugin() error {
	for _, path := range []string{pluginPath(), daemonPath()} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: run make build first, or name the plugin, beside which overlayd is, in OVERLAY_CNI", err)
		}
	}
	return nil
}

// build makes the programs that no package has. Ours are copied, so that all
// tests have the same ones, whatever happens to the originals.
func build(dir string) error {
	if out, err := exec.Command("cp", pluginPath(), daemonPath(), dir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the plugin and overlayd: %w: %s", err, out)
	}
	for name, pkg := range map[string]string{"pod": "./pod", "cnitool": "github.com/containernetworking/cni/cnitool"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}

// inside furnishes the sandbox and runs the tests in it.
func inside() error {
	// The new namespaces are this thread's, and those of what it starts.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare IPC, UTS and cgroup namespaces: %w", err)
	}
	if err := errors.Join(unix.Sethostname([]byte("host-a")), furnish()); err != nil {
		return err
	}
	files := []uintptr{0, 1, 2}
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{Env: append(os.Environ(), testerEnv+"=1"), Files: files})
	if err != nil {
		return fmt.Errorf("start the tests: %w", err)
	}
	return reap(pid)
}

// reap waits for all processes of the sandbox until pid has ended.
func reap(pid int) error {
	for {
		var status syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR), err == nil && ended != pid:
			continue
		case err != nil:
			return fmt.Errorf("wait for the tests: %w", err)
		case status.Signaled():
			return &sandbox.ExitError{Code: 128 + int(status.Signal())}
		case status.ExitStatus() != 0:
			return &sandbox.ExitError{Code: status.ExitStatus()}
		}
		return nil
	}
}
