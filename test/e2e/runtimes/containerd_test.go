package runtimes

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// containerdConf is what a Kubernetes node has, as far as a sandbox allows:
// root without CAP_SYS_RESOURCE can't make a process less likely to be killed.
const containerdConf = `version = 2
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + image + `"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "` + binDir + `"
    conf_dir = "` + confDir + `"
`

const containerdSocket = "/run/containerd/containerd.sock"

// daemon is a containerd.
type daemon struct {
	cmd       *exec.Cmd
	conf, log string
}

// startContainerd starts one, with the image in it, that ends with the test:
// the first in PATH.
func startContainerd(t *testing.T) *daemon {
	t.Helper()
	dir := t.TempDir()
	d := &daemon{conf: filepath.Join(dir, "config.toml"), log: filepath.Join(dir, "log")}
	check(t, os.WriteFile(d.conf, []byte(containerdConf), 0o644))
	t.Cleanup(func() {
		d.end(t, syscall.SIGTERM)
		if t.Failed() {
			data, _ := os.ReadFile(d.log)
			t.Logf("containerd's log:\n%s", data[max(0, len(data)-3000):])
		}
	})
	d.start(t)
	version(t, "containerd", "--version")
	version(t, "runc", "--version")
	for _, namespace := range []string{"default", "k8s.io"} {
		run(t, "ctr", "-n", namespace, "images", "import", saveImage(t))
	}
	return d
}

func (d *daemon) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	check(t, err)
	defer log.Close()
	d.cmd = exec.Command("containerd", "--config", d.conf)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	check(t, d.cmd.Start())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	check(t, probe.Eventually(ctx, func(context.Context) error { return exec.Command("ctr", "version").Run() }))
}

func (d *daemon) end(t *testing.T, s os.Signal) {
	t.Helper()
	check(t, d.cmd.Process.Signal(s))
	_ = d.cmd.Wait() // how it ends is its own affair
}

// ctrRun starts a container in the foreground, as only then ctr takes its
// network away, and returns what waits for its end.
func ctrRun(t *testing.T, name string) (pod, func()) {
	t.Helper()
	cmd := exec.Command("ctr", "run", "--rm", "--cni", image, name, "/pod")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(&out)
	check(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop := func() {
		t.Helper()
		run(t, "ctr", "task", "kill", name)
		if err := <-ended; err != nil {
			t.Errorf("ctr run: %v: %s", err, out.String())
		}
	}
	return podOf(t, pidOfTask(t, name, ended, &out)), stop
}

// pidOfTask waits for the task and its interface.
func pidOfTask(t *testing.T, name string, ended <-chan error, out *strings.Builder) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	pid := ""
	err := probe.Eventually(ctx, func(context.Context) error {
		select {
		case err := <-ended:
			t.Fatalf("ctr run ended: %v: %s", err, out.String())
		default:
		}
		list, err := exec.Command("sh", "-c", "ctr task ls | awk '$1 == \""+name+"\" { print $2 }'").Output()
		if err == nil {
			pid = strings.TrimSpace(string(list))
			err = connected(pid)
		}
		return err
	})
	if err != nil {
		t.Fatalf("container %s has no network: %v: %s", name, err, out.String())
	}
	return pid
}

func connected(pid string) error {
	ns, err := sandbox.OpenNetns("/proc/" + pid + "/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	_, err = addressIn(ns)
	return err
}

func TestCtr(t *testing.T) {
	h := newHost(t, shipped(t))
	startContainerd(t)
	defer h.leavesNothing(t)()
	one, stopOne := ctrRun(t, "one")
	two, stopTwo := ctrRun(t, "two")
	h.mesh(t, one, two)
	stopOne()
	stopTwo()
}

// TestCtrDetached: ctr forgets the network of a container that it doesn't wait
// for. A GC finds it.
func TestCtrDetached(t *testing.T) {
	h := newHost(t, shipped(t).withVersion("1.0.0"))
	startContainerd(t)
	defer h.leavesNothing(t)()
	run(t, "ctr", "run", "-d", "--cni", image, "detached", "/pod")
	run(t, "ctr", "task", "rm", "-f", "detached")
	run(t, "ctr", "container", "rm", "detached")
	if !strings.Contains(h.left(t), "default-detached") {
		t.Error("ctr has learned to clean up: this test has nothing to show any more")
	}
	tool{netns: "none"}.must(t, "gc")
}
