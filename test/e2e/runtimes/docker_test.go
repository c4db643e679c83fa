package runtimes

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/pkg/iptables"
)

// dockerHost is a host on which Docker runs, with one of the two iptables.
type dockerHost struct {
	ns      *sandbox.Netns
	program string
	dir     string
	// hidden: dockerd takes it that the host does not forward, and so sets the
	// policy of FORWARD to DROP.
	hidden bool
}

// newDockerHost makes one that does not forward yet. There dockerd turns it on,
// and sets the policy of FORWARD to DROP.
func newDockerHost(t *testing.T, kind string) *dockerHost {
	t.Helper()
	ns, err := sandbox.CreateNetns("docker-" + kind)
	check(t, err)
	t.Cleanup(func() { check(t, ns.Delete()) })
	return dockerOn(t, ns, kind)
}

// dockerOn is Docker on a host that there is.
func dockerOn(t *testing.T, ns *sandbox.Netns, kind string) *dockerHost {
	t.Helper()
	check(t, os.MkdirAll("/etc/docker", 0o755))
	dir, err := os.MkdirTemp("", "docker") // short, for it has the path of a socket
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	h := &dockerHost{ns: ns, program: "iptables-" + kind, dir: dir}
	for _, name := range []string{"iptables", "ip6tables"} {
		path, err := exec.LookPath(name + "-" + kind)
		check(t, err)
		check(t, os.Symlink(path, filepath.Join(h.dir, name)))
	}
	t.Setenv("PATH", h.dir+":"+os.Getenv("PATH"))
	return h
}

// start starts dockerd and waits until it answers. What it returns ends it.
func (h *dockerHost) start(t *testing.T) (end func()) {
	t.Helper()
	socket := "unix://" + h.dir + "/socket"
	var log bytes.Buffer
	args := []string{"dockerd", "--data-root", h.dir + "/data", "--exec-root", h.dir + "/exec",
		"--host", socket, "--pidfile", h.dir + "/pid", "--storage-driver", "vfs"}
	if h.hidden {
		check(t, os.WriteFile(h.dir+"/ip_forward", []byte("0\n"), 0o644))
		const hide = `mount --bind "$0/ip_forward" /proc/sys/net/ipv4/ip_forward && exec "$@"`
		args = append([]string{"unshare", "--mount", "sh", "-c", hide, h.dir}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	check(t, h.ns.Start(cmd))
	end = sync.OnceFunc(func() {
		check(t, cmd.Process.Signal(syscall.SIGTERM))
		_ = cmd.Wait() // how it ends is its own affair
		if t.Failed() {
			t.Logf("dockerd's log:\n%s", log.Bytes()[max(0, log.Len()-3000):])
		}
	})
	t.Cleanup(end)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, probe.Eventually(ctx, func(context.Context) error { return exec.Command("docker", "--host", socket, "version").Run() }))
	return end
}

// forward is chain FORWARD as iptables -S lists it.
func (h *dockerHost) forward(t *testing.T) []string {
	t.Helper()
	return strings.Split(strings.TrimSpace(run(t, "nsenter", "--net="+h.ns.Path(), h.program, "-S", "FORWARD")), "\n")
}

// sync does what the daemon does when it notices a change.
func (h *dockerHost) sync() error {
	want, err := iptables.Desired(iptables.Config{
		Own: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}, Bridge: "cni0", Tunnel: "overlay0",
	})
	return errors.Join(err, h.ns.Do(func() error {
		_, err := iptables.New().Sync(want)
		return err
	}))
}

// check wants Docker's rules to be there, its policy, and our jump behind them.
func (h *dockerHost) check(t *testing.T) {
	t.Helper()
	lines := h.forward(t)
	text := strings.Join(lines, "\n")
	for _, docker := range []string{"-P FORWARD DROP", "-j DOCKER-USER", "-o docker0"} {
		if !strings.Contains(text, docker) {
			t.Errorf("dockerd has not set %q, so this shows nothing", docker)
		}
	}
	const jump = "-A FORWARD -j OVERLAY-CNI-FWD"
	if lines[len(lines)-1] != jump || strings.Count(text, jump) != 1 {
		t.Errorf("our jump is not the last rule:\n%s", text)
	}
}

// TestDockerd starts the real one. Whatever it does at a start, to its own
// rules and the policy, our rules come to stand behind.
func TestDockerd(t *testing.T) {
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			h := newDockerHost(t, kind)
			version(t, "dockerd", "--version")
			end := h.start(t)
			check(t, h.sync())
			h.check(t)
			end()

			flush := func() error {
				return errors.Join(exec.Command(h.program, "-F").Run(), exec.Command(h.program, "-X").Run())
			}
			check(t, h.ns.Do(flush))
			check(t, h.sync())
			h.start(t)
			check(t, h.sync())
			h.check(t)
		})
	}
}
