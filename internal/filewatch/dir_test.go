package filewatch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// watchedDir is a directory that a test watches.
type watchedDir struct {
	t       *testing.T
	path    atomic.Pointer[string]
	changed chan struct{}
}

func newWatchedDir(t *testing.T, path string, limits timing) *watchedDir {
	d := &watchedDir{t: t, changed: make(chan struct{}, 1)}
	d.path.Store(&path)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- watchDir(ctx, func() string { return *d.path.Load() }, func() {
			select {
			case d.changed <- struct{}{}:
			default:
			}
		}, limits)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *watchedDir) await(what string) {
	d.t.Helper()
	select {
	case <-d.changed:
	case <-time.After(patient):
		d.t.Fatalf("%s: not noticed", what)
	}
}

func TestDirNoticesChanges(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "d")
	file := filepath.Join(path, "f")
	again := func() error { return os.Mkdir(path, 0o755) }
	write := func(text string) error { return os.WriteFile(file, []byte(text), 0o600) }
	d := newWatchedDir(t, path, looking())
	d.await("the beginning")
	for _, step := range []struct {
		what   string
		change func() error
	}{
		{"made", again},
		{"a file", func() error { return write("1") }},
		{"a file changed", func() error { return write("2") }},
		{"a file renamed", func() error { return os.Rename(file, file+"2") }},
		{"a file removed", func() error { return os.Remove(file + "2") }},
		{"removed", func() error { return os.Remove(path) }},
		{"made anew", again},
		{"a file in the new one", func() error { return write("3") }},
		{"changed in the new one", func() error { return write("4") }},
		{"replaced at once", func() error { return errors.Join(os.RemoveAll(path), again()) }},
		{"a file in the third one", func() error { return write("5") }},
		{"changed in the third one", func() error { return write("6") }},
	} {
		must(t, step.change())
		d.await(step.what)
		d.quiet()
	}
	other := t.TempDir()
	d.path.Store(&other)
	d.await("another path")
	d.quiet()
	must(t, os.WriteFile(filepath.Join(other, "f"), nil, 0o600))
	d.await("a file in the other one")
}

// quiet waits until what was noticed more than once is over.
func (d *watchedDir) quiet() {
	for {
		select {
		case <-d.changed:
		case <-time.After(5 * looking().look):
			return
		}
	}
}

// Changes are seen by events alone, too.
func TestDirNeedsNoLook(t *testing.T) {
	path := t.TempDir()
	d := newWatchedDir(t, path, quick())
	d.await("the beginning")
	for i := range 3 {
		must(t, os.WriteFile(filepath.Join(path, "f"), []byte{byte(i)}, 0o600))
		d.await("a file")
	}
}
