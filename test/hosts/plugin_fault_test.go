package hosts

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// mountRunDir puts a small tmpfs over the run directory.
func (p *pluginHost) mountRunDir(t *testing.T, options string) {
	t.Helper()
	dir := p.host.RunDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]string{
		"no inode left": "nr_inodes=16",
		"no page left":  "size=16k",
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")
			p.mountRunDir(t, options)
			empty := p.snapshot(t)
			n := 0
			for ; n < 20; n++ {
				ns := sandboxtest.NewNetns(t)
				before := p.snapshot(t)
				_, cniErr := p.run(t, invocation{command: "ADD", id: fmt.Sprint("pod", n), netns: ns.Path()})
				if cniErr == nil {
					continue
				}
				full := "the file system of " + p.host.RunDir()
				if cniErr.Code != types.ErrTryAgainLater || !strings.Contains(cniErr.Msg, "no space left on device") || !strings.Contains(cniErr.Details, full) {
					t.Errorf("got %+v", cniErr)
				}
				if after := p.snapshot(t); after != before {
					t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
				}
				break
			}
			if n == 0 || n == 20 {
				t.Fatalf("%d pods fit", n)
			}
			for i := range n {
				p.del(t, fmt.Sprint("pod", i))
			}
			if after := p.snapshot(t); after != empty {
				t.Errorf("left behind after all were deleted:\n%s", after)
			}
			p.add(t, "late")
		})
	}
}

func TestReadOnlyRunDirectory(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	p.mountRunDir(t, "")
	empty := p.snapshot(t)
	p.add(t, "pod")
	before := p.snapshot(t)
	remount := func(flags uintptr) {
		if err := unix.Mount("tmpfs", p.host.RunDir(), "tmpfs", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	for _, command := range []string{"ADD", "DEL"} {
		call := invocation{command: command, id: "pod", netns: sandboxtest.NewNetns(t).Path()}
		_, cniErr := p.run(t, call)
		if cniErr == nil || !strings.Contains(cniErr.Msg, "read-only file system") || !strings.Contains(cniErr.Msg, p.host.RunDir()) {
			t.Errorf("%s: got %v", command, cniErr)
		}
		if after := p.snapshot(t); after != before {
			t.Errorf("%s changed something:\n%s", command, after)
		}
	}
	remount(0)
	p.del(t, "pod")
	if after := p.snapshot(t); after != empty {
		t.Errorf("left behind:\n%s", after)
	}
}

// TestRecordThatCannotBeUsed replaces a pod's record by something else before the
// runtime's next call.
func TestRecordThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"empty":           "",
		"cut short":       `{"version":1,"network":"test","contai`,
		"garbage":         "\x00\xff\xfe",
		"another version": `{"version":99,"containerID":"pod","ifName":"eth0","addresses":["10.244.1.200"]}`,
		"no addresses":    `{"version":1,"network":"test","containerID":"pod","ifName":"eth0","bridge":"cni0","hostPorts":[{"hostPort":8080,"containerPort":80}]}`,
		"another pod's":   `{"version":1,"network":"test","containerID":"other","ifName":"eth0","addresses":["10.244.1.2"]}`,
		"huge":            strings.Repeat("{", 1<<20),
	} {
		for _, then := range []string{"DEL", "ADD and DEL"} {
			t.Run(name+", then "+then, func(t *testing.T) {
				p := newPlugin(t, "10.244.1.0/24")
				p.add(t, "other")
				before := p.snapshot(t)
				p.conf["runtimeConfig"] = everything
				ns, _ := p.add(t, "pod")
				if err := os.WriteFile(p.record("pod"), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
				if then == "ADD and DEL" {
					if _, cniErr := p.run(t, invocation{command: "ADD", netns: ns.Path()}); cniErr != nil {
						t.Error(cniErr)
					}
					if n := strings.Count(p.snapshot(t), "/addresses/"); n != 2 {
						t.Errorf("%d addresses are reserved for two pods:\n%s", n, p.snapshot(t))
					}
				}
				p.del(t, "pod")
				if after := p.snapshot(t); after != before {
					t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
				}
			})
		}
	}
}

func TestNetnsThatIsGone(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]invocation{
		"DEL": {command: "DEL"},
		"GC":  {command: "GC"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlugin(t, "10.244.1.0/24")
			before := p.snapshot(t)
			gone, err := sandbox.CreateNetns("gone")
			if err != nil {
				t.Fatal(err)
			}
			if _, cniErr := p.run(t, invocation{command: "ADD", netns: gone.Path()}); cniErr != nil {
				t.Fatal(cniErr)
			}
			if err := gone.Delete(); err != nil {
				t.Fatal(err)
			}
			command.netns = gone.Path()
			command.stdin = p.valid()
			if _, cniErr := p.run(t, command); cniErr != nil {
				t.Fatal(cniErr)
			}
			if after := p.snapshot(t); after != before {
				t.Errorf("left behind:\n%s", after)
			}
		})
	}
}

func TestLongContainerIDs(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	before := p.snapshot(t)
	ids := []string{strings.Repeat("a", 200), strings.Repeat("a", 201), strings.Repeat("a", 202), strings.Repeat("a", 4000)}
	for _, id := range ids {
		p.add(t, id)
	}
	for _, id := range ids {
		p.del(t, id)
	}
	if after := p.snapshot(t); after != before {
		t.Errorf("left behind:\n%s", after)
	}
}
