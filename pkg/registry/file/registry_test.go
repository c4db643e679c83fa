package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

var _ registry.Registry = (*Registry)(nil)

// patient is longer than anything here takes on a machine that is busy.
const patient = 20 * time.Second

// oneNode is a valid file whose node has this name.
func oneNode(name string) string {
	return fmt.Sprintf("nodes:\n- name: %s\n  addresses: [192.168.77.1]\n  podSubnets: [10.244.1.0/24]\n", name)
}

// quick never reads without an event, so that a test that passes saw one. Its
// patience is at an end before a second change, which must have its own.
func quick() timing {
	return timing{settle: 5 * time.Millisecond, patience: 5 * time.Millisecond, anyway: time.Hour}
}

func watched(t *testing.T, path string) *Registry {
	t.Helper()
	r, err := open(path, quick())
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

// await returns when the registry's names and error are as wanted, looking
// only when Changed says so.
func await(t *testing.T, r *Registry, names, wantErr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	for {
		nodes, err := r.Nodes()
		got := []string{}
		for _, n := range nodes {
			got = append(got, n.Name)
		}
		if strings.Join(got, " ") == names && text(err) == wantErr {
			return
		}
		select {
		case <-r.Changed():
		case <-ctx.Done():
			t.Fatalf("nodes %q, error %v; want nodes %q, error %q", got, err, names, wantErr)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.yaml")
	write(t, broken, "nodes: {}\n")
	for path, want := range map[string]string{
		broken:                                   broken + ":1:8: nodes: expected a list of nodes, or [] for none, found a mapping",
		filepath.Join(dir, "none", "nodes.yaml"): "read the nodes file: open " + dir + "/none/nodes.yaml: no such file or directory",
		filepath.Join(broken, "nodes.yaml"):      "read the nodes file: open " + broken + "/nodes.yaml: not a directory",
	} {
		if r, err := New(path); r != nil || text(err) != want {
			t.Errorf("got %v, %v; want error %s", r, err, want)
		}
	}
	if _, err := New(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v does not match fs.ErrNotExist", err)
	}
}

func TestNewGivesTheNodesAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes.yaml")
	write(t, path, good)
	nodes, err := watched(t, path).Nodes()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goodNodes(), nodes, equalNodes()); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

// Each test changes the file from node "old" to node "new" in some way that
// people or programs do.
func TestChangesArePickedUp(t *testing.T) {
	tests := map[string]struct {
		lay    func(t *testing.T, dir string) (path string)
		change func(t *testing.T, dir string)
	}{
		"written in place": {plain, func(t *testing.T, dir string) {
			write(t, dir+"/nodes.yaml", oneNode("new"))
		}},
		"renamed over": {plain, func(t *testing.T, dir string) {
			write(t, dir+"/.tmp", oneNode("new"))
			must(t, os.Rename(dir+"/.tmp", dir+"/nodes.yaml"))
		}},
		"removed and made again": {plain, func(t *testing.T, dir string) {
			must(t, os.Remove(dir+"/nodes.yaml"))
			write(t, dir+"/nodes.yaml", oneNode("new"))
		}},
		"directory removed and made again": {inside, func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir+"/a"))
			must(t, os.MkdirAll(dir+"/a/b", 0o700))
			write(t, dir+"/a/b/nodes.yaml", oneNode("new"))
		}},
		"directory above swapped": {inside, func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir+"/c/b", 0o700))
			write(t, dir+"/c/b/nodes.yaml", oneNode("new"))
			must(t, os.Rename(dir+"/a", dir+"/old"))
			must(t, os.Rename(dir+"/c", dir+"/a"))
		}},
		"link swapped, as a ConfigMap's": {configMap, func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/..2", 0o700))
			write(t, dir+"/..2/nodes.yaml", oneNode("new"))
			must(t, os.Symlink("..2", dir+"/..tmp"))
			must(t, os.Rename(dir+"/..tmp", dir+"/..data"))
			must(t, os.RemoveAll(dir+"/..1"))
		}},
		"written behind a link into another directory": {linked, func(t *testing.T, dir string) {
			write(t, dir+"/elsewhere/real.yaml", oneNode("new"))
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := tt.lay(t, dir)
			r := watched(t, path)
			await(t, r, "old", "")
			tt.change(t, dir)
			await(t, r, "new", "")
			// What lies behind the path now is watched, too.
			write(t, path, oneNode("newer"))
			await(t, r, "newer", "")
		})
	}
}

func plain(t *testing.T, dir string) string {
	write(t, dir+"/nodes.yaml", oneNode("old"))
	return dir + "/nodes.yaml"
}

func inside(t *testing.T, dir string) string {
	must(t, os.MkdirAll(dir+"/a/b", 0o700))
	write(t, dir+"/a/b/nodes.yaml", oneNode("old"))
	return dir + "/a/b/nodes.yaml"
}

func configMap(t *testing.T, dir string) string {
	must(t, os.Mkdir(dir+"/..1", 0o700))
	write(t, dir+"/..1/nodes.yaml", oneNode("old"))
	must(t, os.Symlink("..1", dir+"/..data"))
	must(t, os.Symlink("..data/nodes.yaml", dir+"/nodes.yaml"))
	return dir + "/nodes.yaml"
}

func linked(t *testing.T, dir string) string {
	must(t, os.Mkdir(dir+"/elsewhere", 0o700))
	write(t, dir+"/elsewhere/real.yaml", oneNode("old"))
	must(t, os.Symlink(dir+"/elsewhere/real.yaml", dir+"/nodes.yaml"))
	return dir + "/nodes.yaml"
}

func TestBrokenOrMissingFileLeavesTheLastGoodSet(t *testing.T) {
	path := plain(t, t.TempDir())
	r := watched(t, path)

	write(t, path, "nodes:\n")
	await(t, r, "old", path+":1:7: nodes: has no value: expected a list of nodes, or [] for none")

	must(t, os.Remove(path))
	await(t, r, "old", "read the nodes file: open "+path+": no such file or directory")

	write(t, path, oneNode("new"))
	await(t, r, "new", "")
}

func TestRestOfAHalfWrittenFileIsRead(t *testing.T) {
	path := plain(t, t.TempDir())
	r := watched(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	defer f.Close()

	whole := oneNode("new")
	_, err = f.WriteString(whole[:len(whole)-len("244.1.0/24]\n")])
	must(t, err)
	await(t, r, "old", path+":4: malformed YAML: did not find expected ',' or ']': check the indentation, quotes and brackets from here on")

	_, err = f.WriteString("244.1.0/24]\n")
	must(t, err)
	await(t, r, "new", "")
}

func TestFileIsReadWithoutAnEventAtLast(t *testing.T) {
	path := plain(t, t.TempDir())
	r, err := open(path, timing{settle: time.Hour, patience: time.Hour, anyway: 5 * time.Millisecond})
	must(t, err)
	defer r.Close()
	write(t, path, oneNode("new"))
	await(t, r, "new", "")
}

func TestPathMayBeRelative(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	plain(t, dir)
	r := watched(t, "nodes.yaml")
	write(t, "nodes.yaml", oneNode("new"))
	await(t, r, "new", "")
	write(t, "nodes.yaml", "nodes: [")
	await(t, r, "new", "nodes.yaml:1: malformed YAML: did not find expected node content: check the indentation, quotes and brackets from here on")
}

func TestChangedOnlyWhenTheContentDiffers(t *testing.T) {
	path := plain(t, t.TempDir())
	r, err := load(path, quick())
	must(t, err)
	defer r.watcher.Close()
	steps := []struct {
		text    string
		changed bool
	}{
		{oneNode("old"), false},
		{"# other text, same nodes\n" + oneNode("old"), false},
		{oneNode("new"), true},
		{"nodes: {}\n", true},
		{"nodes: {} # the same error\n", false},
		{"nodes: 1\n", true},
		{oneNode("new"), true},
		{oneNode("new"), false},
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
	_, err := New(dir + "/a")
	if err == nil {
		t.Error("accepted")
	}
}

func TestTraceVisitsEveryEntryOnTheWay(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/real/sub", 0o700))
	must(t, os.Symlink("real/./sub/..", dir+"/link"))
	var got []string
	must(t, trace(dir+"/link//file/none", func(at, name string) error {
		if rel, inside := strings.CutPrefix(at, dir); inside {
			got = append(got, rel+"/"+name)
		}
		return nil
	}))
	want := []string{"/link", "/real", "/real/sub", "/real/file"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
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
	path := plain(t, t.TempDir())
	r, err := New(path)
	must(t, err)
	must(t, r.Close())
	select {
	case <-r.done:
	default:
		t.Error("Close returned before the goroutine ended")
	}
	must(t, r.Close())
	_, err = New(path + ".none")
	if err == nil {
		t.Error("opened a file that does not exist")
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, left := range []string{"(*Registry).run", "(*inotify).readEvents"} {
		if strings.Contains(string(stacks), left) {
			t.Errorf("%s still runs:\n%s", left, stacks)
		}
	}
	write(t, path, oneNode("new"))
	await(t, r, "old", "")
}
