package sysctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// In a container that isn't privileged: the second way sets the parameter of
// the namespace that the thread is in, and is taken where the first one is
// read-only.
func TestReadOnlySysctls(t *testing.T) {
	dir := t.TempDir()
	closed, open := filepath.Join(dir, "closed"), filepath.Join(dir, "open")
	mount(t, root, closed, unix.MS_RDONLY)
	mount(t, filepath.Join(root, "net"), filepath.Join(open, "net"), 0)
	for _, tt := range []struct {
		name          string
		first, second string
		path          string
		want          error
	}{
		{"IPv4", closed, open, forward4, nil},
		{"IPv6", closed, open, forward6, nil},
		{"no second way", closed, filepath.Join(dir, "none"), forward4, unix.EROFS},
		{"a second way that is closed too", closed, closed, forward4, unix.EROFS},
		{"a parameter that isn't there", closed, open, "net/ipv4/no_such_thing", os.ErrNotExist},
		{"the first way is open", root, filepath.Join(dir, "none"), forward4, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sandboxtest.Do(t, sandboxtest.NewNetns(t), func() error {
				p := Parameter{tt.path, "1"}
				if err := p.writeTo(tt.first, tt.second); !errors.Is(err, tt.want) {
					return fmt.Errorf("got %w", err)
				}
				if have, err := Get(p.Path); tt.want == nil && have != "1" {
					return fmt.Errorf("it is %q, %w", have, err)
				}
				return nil
			})
		})
	}
}
