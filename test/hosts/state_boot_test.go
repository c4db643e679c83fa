package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// reboot does to a host what a boot does, but for the run directory.
func (p *pluginHost) reboot(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		p.unplug(t, id)
	}
	bridge, err := p.host.Handle().LinkByName("cni0")
	if err == nil {
		err = p.host.Handle().LinkDel(bridge)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A run directory that is on a disk: the addresses of pods that a boot ended are
// freed when they are needed. The addresses of pods that run are not.
func TestAddressesOfPodsThatABootEnded(t *testing.T) {
	t.Parallel()
	for name, subnets := range map[string][]string{
		"IPv4": {"10.244.1.0/29"}, "IPv6": {"fd00:244:1::/125"}, "dual stack": {"10.244.1.0/29", "fd00:244:1::/125"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlugin(t, subnets...)
			fill := func(from int) (ids []string, refused *types.Error) {
				for n := from; ; n++ {
					ns := sandboxtest.NewNetns(t)
					if _, refused = p.run(t, invocation{command: "ADD", id: fmt.Sprint("pod", n), netns: ns.Path()}); refused != nil {
						return ids, refused
					}
					ids = append(ids, fmt.Sprint("pod", n))
				}
			}
			before, refused := fill(0)
			if refused.Code != 100 || len(before) < 5 {
				t.Fatalf("%d pods fit, then: %v", len(before), refused)
			}
			p.reboot(t, before...)
			after, refused := fill(100)
			if refused.Code != 100 || len(after) != len(before) {
				t.Errorf("%d pods fit after the boot, %d before: %v", len(after), len(before), refused)
			}
			for _, id := range after {
				p.del(t, id)
			}
		})
	}
}

// The same for an address that is asked for.
func TestAskedForAddressOfAPodThatABootEnded(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	ask := func(id string) *types.Error {
		_, cniErr := p.run(t, invocation{command: "ADD", id: id, netns: sandboxtest.NewNetns(t).Path(), args: "IP=10.244.1.7"})
		return cniErr
	}
	if err := ask("first"); err != nil {
		t.Fatal(err)
	}
	if err := ask("second"); err == nil || err.Code != 105 {
		t.Errorf("a running pod's address: %v", err)
	}
	p.reboot(t, "first")
	if err := ask("third"); err != nil {
		t.Error(err)
	}
}

// What a daemon published before the boot is not used on a disk, whatever it says.
// The next daemon publishes anew.
func TestPublishedBeforeTheBoot(t *testing.T) {
	t.Parallel()
	f, ctx := newFleet(t, 1, noResync), withPatience(t)
	h := f.hosts[0]
	f.stop(ctx, h)
	path := nodestate.Path(h.RunDir())
	text, err := os.ReadFile(path)
	f.must(err)
	older := regexp.MustCompile(`"boot": "[^"]+"`).ReplaceAll(text, []byte(`"boot": "1e0c4a1c-0000-0000-0000-000000000000"`))
	f.must(os.WriteFile(path, older, 0o644))
	p := &pluginHost{host: h, conf: map[string]any{"cniVersion": "1.1.0", "name": "overlay", "type": "overlay-cni", "runDir": h.RunDir(), "waitSeconds": 0}}
	var st unix.Statfs_t
	f.must(unix.Statfs(h.RunDir(), &st))
	_, cniErr := p.run(t, invocation{command: "ADD", netns: sandboxtest.NewNetns(t).Path()})
	if onDisk := st.Type != unix.TMPFS_MAGIC; onDisk && (cniErr == nil || cniErr.Code != types.ErrTryAgainLater) {
		t.Errorf("ADD: %v", cniErr)
	}
	f.start(ctx, h)
	f.addPod(ctx, h, "late")
}

// Somebody damages what the daemon published: ADD is told to try again, and the daemon
// writes the file anew at once.
func TestDamagedPublishedState(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, withHealth)
	h := f.hosts[0]
	path := nodestate.Path(h.RunDir())
	good, err := os.ReadFile(path)
	f.must(err)
	outside := filepath.Join(t.TempDir(), "outside")
	f.must(os.WriteFile(outside, good, 0o644))
	for name, damage := range map[string]func() error{
		"removed":   func() error { return os.Remove(path) },
		"empty":     func() error { return os.Truncate(path, 0) },
		"cut short": func() error { return os.Truncate(path, 40) },
		"garbage":   func() error { return os.WriteFile(path, []byte("\x00{"), 0o644) },
		"without a subnet": func() error {
			return os.WriteFile(path, []byte(`{"version":1,"node":"host-a","subnets":[],"mtu":1450,"bridge":"cni0"}`), 0o644)
		},
		"a link": func() error { return errors.Join(os.Remove(path), os.Symlink(outside, path)) },
	} {
		t.Run(name, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.stop(ctx, h)
			f.must(damage())
			p := &pluginHost{host: h, conf: map[string]any{"cniVersion": "1.1.0", "name": "overlay", "type": "overlay-cni", "runDir": h.RunDir(), "waitSeconds": 0}}
			_, cniErr := p.run(t, invocation{command: "ADD", netns: sandboxtest.NewNetns(t).Path()})
			if cniErr == nil || cniErr.Code != types.ErrTryAgainLater || !strings.Contains(cniErr.Msg, path) {
				t.Errorf("ADD without a daemon: %v", cniErr)
			}
			f.start(ctx, h)
			f.same(path, good)
			f.must(damage())
			f.addPod(ctx, h, "pod-"+strings.ReplaceAll(name, " ", "-")) // waits
			f.eventually(ctx, func(context.Context) error { return f.differs(path, good) })
		})
	}
}

func (f *fleet) same(path string, want []byte) {
	f.t.Helper()
	if err := f.differs(path, want); err != nil {
		f.t.Error(err)
	}
}

func (f *fleet) differs(path string, want []byte) error {
	have, err := os.ReadFile(path)
	if err == nil && string(have) != string(want) {
		err = fmt.Errorf("%s is %q, not %q", path, have, want)
	}
	return err
}

// A full file system is told by /readyz, with what to free, before and after an ADD
// meets it.
func TestFullRunDirectoryIsTold(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 1, withHealth), withPatience(t)
	h := f.hosts[0]
	p := &pluginHost{host: h}
	p.mountRunDir(t, "size=1m,nr_inodes=200")
	f.start(ctx, h)
	f.eventuallyReady(ctx, h)
	filler := filepath.Join(h.RunDir(), "filler")
	f.must(os.WriteFile(filler, make([]byte, 960<<10), 0o600))
	f.eventually(ctx, func(ctx context.Context) error {
		return says(ctx, h, "/readyz", http.StatusOK, "degraded", "the file system of "+h.RunDir()+" is full", "df "+h.RunDir())
	})
	f.must(os.Remove(filler))
	f.eventuallyReady(ctx, h)
}

// The run directory is deleted on the host, while the daemon's container still has it
// mounted: the daemon can't make it again, says so, and ends. The next container has
// the new one.
func TestRunDirectoryDeletedBehindAMount(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 1, withHealth), withPatience(t)
	h := f.hosts[0]
	source, mounted := h.RunDir()+"-host", h.RunDir()
	bind := func() {
		t.Helper()
		f.must(os.MkdirAll(source, 0o755))
		f.must(unix.Mount(source, mounted, "", unix.MS_BIND, ""))
	}
	bind()
	d := f.start(ctx, h)
	pod := f.addPod(ctx, h, "pod")
	f.must(os.RemoveAll(source))
	select {
	case <-d.Done():
	case <-ctx.Done():
		t.Fatal("the daemon runs on")
	}
	f.must(d.Log.Wait(ctx, "the run directory was deleted on the host while it is mounted here"))
	f.must(unix.Unmount(mounted, unix.MNT_DETACH))
	bind()
	t.Cleanup(func() { _ = unix.Unmount(mounted, unix.MNT_DETACH) })
	f.start(ctx, h)
	fresh := f.addPod(ctx, h, "fresh")
	for _, a := range fresh.Addresses {
		for _, b := range pod.Addresses {
			if a == b {
				t.Errorf("both pods have %s", a)
			}
		}
	}
	f.pingAll(ctx, h.Netns(), addressesOf([]*lab.Pod{pod, fresh}))
}
