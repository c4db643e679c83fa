package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// After a boot the runtime may be faster than the daemon. The pod then waits for
// the daemon, and no longer.
func TestDaemonComesAfterThePlugin(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 1), withPatience(t)
	h := f.hosts[0]
	type added struct {
		pod *lab.Pod
		err error
		at  time.Time
	}
	done := make(chan added, 1)
	go func() {
		pod, err := h.AddPod(ctx, lab.PodSpec{Name: "early"})
		done <- added{pod, err, time.Now()}
	}()
	f.must(probe.Eventually(ctx, func(context.Context) error { return pluginWaits(h.Netns().Path() + "-early") }))
	select {
	case early := <-done:
		t.Fatalf("ADD did not wait: %+v", early)
	default:
	}
	f.start(ctx, h)
	started := time.Now()
	early := <-done // bounded by the context, which ends the plugin
	f.must(early.err)
	t.Logf("ADD ended %s after the daemon's first look", early.at.Sub(started))
	for i, s := range h.Subnets() {
		if a := early.pod.Addresses[i]; !s.Contains(a) {
			t.Errorf("the pod has %s, not of %s", a, s)
		}
	}
	f.pingAll(ctx, early.pod.Netns(), h.Addresses())
}

// pluginWaits returns nil if a process has opened the network namespace of a pod,
// which is the last thing that the plugin's ADD does before it waits.
func pluginWaits(netns string) error {
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return err
	}
	for _, f := range files {
		if path, err := os.Readlink(f); err == nil && path == netns && comm(f) == "overlay-cni" {
			return nil
		}
	}
	return fmt.Errorf("no overlay-cni has opened %s", netns)
}

// comm returns the name of the process that a file below its /proc/PID/fd is of.
func comm(file string) string {
	name, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "../comm"))
	return strings.TrimSpace(string(name))
}

func TestDaemonNeverComes(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 1), withPatience(t)
	h := f.hosts[0]
	f.quiet(ctx)
	before, netns := f.kernelState(h), f.namespaces()
	start := time.Now()
	_, err := h.AddPod(ctx, lab.PodSpec{Name: "pod", Config: h.PluginConfig(map[string]any{"waitSeconds": 1})})
	var reported *types.Error
	if !errors.As(err, &reported) || reported.Code != types.ErrTryAgainLater {
		t.Fatalf("got %v", err)
	}
	want := fmt.Sprintf("waited 1s: overlayd has not published this node's subnets yet (there is no %s)", filepath.Join(h.RunDir(), "node.json"))
	if reported.Msg != want || !strings.Contains(reported.Details, "is overlayd running on this node") {
		t.Errorf("got %q, %q", reported.Msg, reported.Details)
	}
	if took := time.Since(start); took < time.Second {
		t.Errorf("it gave up after %s", took)
	}
	f.sameState(before, f.kernelState(h))
	f.sameState(netns, f.namespaces())
	for _, name := range listFiles(h.RunDir()) {
		if strings.Contains(name, "pod") {
			t.Errorf("%s was left behind", name)
		}
	}
}

// namespaces are the lab's own: other tests make theirs at the same time.
func (f *fleet) namespaces() []string {
	prefix, _, _ := strings.Cut(f.hosts[0].Netns().Name(), "-")
	return slices.DeleteFunc(listFiles("/run/netns"), func(name string) bool {
		return !strings.HasPrefix(filepath.Base(name), prefix)
	})
}

// listFiles are all below a directory that are no directories.
func listFiles(dir string) []string {
	var names []string
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, path)
		}
		return nil
	})
	return names
}
