package filewatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// patient is longer than anything here takes on a busy machine.
const patient = 20 * time.Second

// reader reads a file that ends with a full stop.
func reader(path string) func() (string, error) {
	return func() (string, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read it: %w", err)
		}
		value, whole := strings.CutSuffix(string(data), ".")
		if !whole {
			return "", fmt.Errorf("%s: broken: %q", path, data)
		}
		return value, nil
	}
}

// quick never checks the file without an event, so a test that passes has seen
// an event. Its patience ends before the second change, which therefore needs an
// event of its own.
func quick() timing {
	return timing{settle: 5 * time.Millisecond, patience: 5 * time.Millisecond, look: time.Hour}
}

// looking also checks the file periodically.
func looking() timing {
	limits := quick()
	limits.look = 20 * time.Millisecond
	return limits
}

func watched(t *testing.T, path string) *Value[string] { return watchedWith(t, path, quick()) }

func watchedWith(t *testing.T, path string, limits timing) *Value[string] {
	t.Helper()
	r, err := open(path, reader(path), limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await returns when the value and error are as wanted, looking only when
// Changed says so.
func await(t *testing.T, v *Value[string], want, wantErr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	for {
		got, err := v.Get()
		if got == want && text(err) == wantErr {
			return
		}
		select {
		case <-v.Changed():
		case <-ctx.Done():
			t.Fatalf("value %q, error %v; want value %q, error %q", got, err, want, wantErr)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	write(t, broken, "half")
	for path, want := range map[string]string{
		broken:                             broken + `: broken: "half"`,
		filepath.Join(dir, "none", "file"): "read it: open " + dir + "/none/file: no such file or directory",
		filepath.Join(broken, "file"):      "read it: open " + broken + "/file: not a directory",
	} {
		if v, err := Open(path, reader(path)); v != nil || text(err) != want {
			t.Errorf("got %v, %v; want error %s", v, err, want)
		}
	}
	if _, err := Open(filepath.Join(dir, "none"), reader(dir+"/none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v does not match fs.ErrNotExist", err)
	}
}

// Each test changes the file from "old" to "new" in some way that
// people or programs do.
func TestChangesArePickedUp(t *testing.T) {
	tests := map[string]struct {
		lay    func(t *testing.T, dir string) (path string)
		change func(t *testing.T, dir string)
		// limits say whether a look may find the change, or an event must.
		limits timing
	}{
		"written in place": {plain, func(t *testing.T, dir string) {
			write(t, dir+"/nodes.yaml", "new.")
		}, quick()},
		"renamed over": {plain, func(t *testing.T, dir string) {
			write(t, dir+"/.tmp", "new.")
			must(t, os.Rename(dir+"/.tmp", dir+"/nodes.yaml"))
		}, quick()},
		"removed and made again": {plain, func(t *testing.T, dir string) {
			must(t, os.Remove(dir+"/nodes.yaml"))
			write(t, dir+"/nodes.yaml", "new.")
		}, quick()},
		"directory removed and made again": {inside, func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir+"/a"))
			must(t, os.MkdirAll(dir+"/a/b", 0o700))
			write(t, dir+"/a/b/nodes.yaml", "new.")
		}, looking()},
		"directory above swapped": {inside, func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir+"/c/b", 0o700))
			write(t, dir+"/c/b/nodes.yaml", "new.")
			must(t, os.Rename(dir+"/a", dir+"/old"))
			must(t, os.Rename(dir+"/c", dir+"/a"))
		}, looking()},
		"link swapped, as a ConfigMap's": {configMap, func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/..2", 0o700))
			write(t, dir+"/..2/nodes.yaml", "new.")
			must(t, os.Symlink("..2", dir+"/..tmp"))
			must(t, os.Rename(dir+"/..tmp", dir+"/..data"))
			must(t, os.RemoveAll(dir+"/..1"))
		}, quick()},
		"written behind a link into another directory": {linked, func(t *testing.T, dir string) {
			write(t, dir+"/elsewhere/real.yaml", "new.")
		}, quick()},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := tt.lay(t, dir)
			r := watchedWith(t, path, tt.limits)
			await(t, r, "old", "")
			tt.change(t, dir)
			await(t, r, "new", "")
			// What lies behind the path now is watched, too.
			write(t, path, "newer.")
			await(t, r, "newer", "")
		})
	}
}

func plain(t *testing.T, dir string) string {
	write(t, dir+"/nodes.yaml", "old.")
	return dir + "/nodes.yaml"
}

func inside(t *testing.T, dir string) string {
	must(t, os.MkdirAll(dir+"/a/b", 0o700))
	write(t, dir+"/a/b/nodes.yaml", "old.")
	return dir + "/a/b/nodes.yaml"
}

func configMap(t *testing.T, dir string) string {
	must(t, os.Mkdir(dir+"/..1", 0o700))
	write(t, dir+"/..1/nodes.yaml", "old.")
	must(t, os.Symlink("..1", dir+"/..data"))
	must(t, os.Symlink("..data/nodes.yaml", dir+"/nodes.yaml"))
	return dir + "/nodes.yaml"
}

func linked(t *testing.T, dir string) string {
	must(t, os.Mkdir(dir+"/elsewhere", 0o700))
	write(t, dir+"/elsewhere/real.yaml", "old.")
	must(t, os.Symlink(dir+"/elsewhere/real.yaml", dir+"/nodes.yaml"))
	return dir + "/nodes.yaml"
}

func TestBrokenOrMissingFileLeavesTheLastGoodValue(t *testing.T) {
	path := plain(t, t.TempDir())
	v := watched(t, path)

	write(t, path, "half")
	await(t, v, "old", path+`: broken: "half"`)

	must(t, os.Remove(path))
	await(t, v, "old", "read it: open "+path+": no such file or directory")

	write(t, path, "new.")
	await(t, v, "new", "")
}

func TestRestOfAHalfWrittenFileIsRead(t *testing.T) {
	path := plain(t, t.TempDir())
	v := watched(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	defer f.Close()

	_, err = f.WriteString("ne")
	must(t, err)
	await(t, v, "old", path+`: broken: "ne"`)

	_, err = f.WriteString("w.")
	must(t, err)
	await(t, v, "new", "")
}

func TestFileIsReadWithoutAnEventAtLast(t *testing.T) {
	path := plain(t, t.TempDir())
	v, err := load(path, reader(path), looking())
	must(t, err)
	must(t, v.watcher.Remove(filepath.Dir(path))) // so that there is no event
	write(t, path, "new.")
	go v.run()
	defer v.Close()
	await(t, v, "new", "")
}

// A reading may fail for a reason that is not in the file, such as too many open
// files. The reason passes without a change of the file.
func TestFailureThatPassesIsForgotten(t *testing.T) {
	path := plain(t, t.TempDir())
	var failing atomic.Bool
	read := reader(path)
	v, err := open(path, func() (string, error) {
		if failing.Load() {
			return "", errors.New("too many open files")
		}
		return read()
	}, looking())
	must(t, err)
	defer v.Close()
	failing.Store(true)
	write(t, path, "new.")
	await(t, v, "old", "too many open files")
	failing.Store(false)
	await(t, v, "new", "")
}

func TestPathMayBeRelative(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	plain(t, dir)
	r := watched(t, "nodes.yaml")
	write(t, "nodes.yaml", "new.")
	await(t, r, "new", "")
	write(t, "nodes.yaml", "half")
	await(t, r, "new", `nodes.yaml: broken: "half"`)
}

func TestChangedOnlyWhenTheContentDiffers(t *testing.T) {
	path := plain(t, t.TempDir())
	r, err := load(path, reader(path), quick())
	must(t, err)
	defer r.watcher.Close()
	steps := []struct {
		text    string
		changed bool
	}{
		{"old.", false},
		{"new.", true},
		{"half", true},
		{"half", false},
		{"another half", true},
		{"new.", true},
		{"new.", false},
	}
	for _, step := range steps {
		write(t, path, step.text)
		r.refresh()
		if got := len(r.changed) == 1; got != step.changed {
			t.Errorf("%q: changed is %v", step.text, got)
		}
		if len(r.changed) == 1 {
			<-r.changed
		}
	}
}

func TestLinksInACircleEndTheSearch(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("b", dir+"/a"))
	must(t, os.Symlink("a", dir+"/b"))
	_, err := Open(dir+"/a", reader(dir+"/a"))
	if err == nil {
		t.Error("accepted")
	}
}

// A file that is being written is read when nothing has changed for a while,
// but it is not put off for ever.
func TestDeadline(t *testing.T) {
	limits := timing{settle: 100 * time.Millisecond, patience: time.Second}
	tests := map[string]struct {
		every time.Duration // between changes
		count int
		want  time.Duration // from the first change to reading
	}{
		"one change":   {0, 1, 100 * time.Millisecond},
		"three pieces": {50 * time.Millisecond, 3, 200 * time.Millisecond},
		"no end":       {50 * time.Millisecond, 100, time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var d deadline
				d.postpone(limits)
				changes := time.NewTicker(max(tt.every, time.Nanosecond))
				defer changes.Stop()
				for left := tt.count - 1; ; {
					if left == 0 {
						changes.Stop()
					}
					select {
					case <-changes.C:
						left--
						d.postpone(limits)
						continue
					case <-d.reached():
					}
					break
				}
				if got := time.Since(start); got != tt.want {
					t.Errorf("read after %s, want %s", got, tt.want)
				}
			})
		})
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	// Other tests' watchers end on their own.
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	path := plain(t, t.TempDir())
	r, err := Open(path, reader(path))
	must(t, err)
	must(t, r.Close())
	select {
	case <-r.done:
	default:
		t.Error("Close returned before the goroutine ended")
	}
	must(t, r.Close())
	_, err = Open(path+".none", reader(path+".none"))
	if err == nil {
		t.Error("opened a file that does not exist")
	}
	write(t, path, "new.")
	await(t, r, "old", "")
}
