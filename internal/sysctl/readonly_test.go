package sysctl

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// mount shows a part of /proc/sys at dir, as a runtime does for a container.
func mount(t *testing.T, from, dir string, flags uintptr) {
	t.Helper()
	err := errors.Join(os.MkdirAll(dir, 0o755), unix.Mount(from, dir, "", unix.MS_BIND, ""))
	if err == nil {
		err = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// In an unprivileged container /proc/sys is read-only. The second root then sets
// the sysctl of the namespace that the thread is in.
func TestReadOnlySysctls(t *testing.T) {
	const first = "/proc/sys"
	second := t.TempDir()
	mount(t, first+"/net", second+"/net", 0)
	none := t.TempDir()
	for _, tt := range []struct {
		name     string
		readOnly bool
		second   string
		path     string
		want     error
	}{
		{"IPv4", true, second, forward4, nil},
		{"IPv6", true, second, forward6, nil},
		{"no second root", true, none, forward4, unix.EROFS},
		{"a second root that is read-only too", true, first, forward4, unix.EROFS},
		{"a sysctl that the kernel does not have", true, second, "net/ipv4/no_such_thing", os.ErrNotExist},
		{"the first root is writable", false, none, forward4, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.readOnly {
				mount(t, first, first, unix.MS_RDONLY)
			}
			sandboxtest.Do(t, sandboxtest.NewNetns(t), func() error {
				changes, err := sync([]Parameter{{tt.path, "1"}}, tt.second)
				if !errors.Is(err, tt.want) || (len(changes) > 0) != (err == nil) {
					return fmt.Errorf("changes %q, %w", changes, err)
				}
				if have, err := Get(tt.path); tt.want == nil && have != "1" {
					return fmt.Errorf("the value is %q, %w", have, err)
				}
				return nil
			})
		})
	}
}
