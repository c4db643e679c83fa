package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

func watched(t *testing.T, path string) *Registry {
	t.Helper()
	r, err := New(path)
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

func plain(t *testing.T, dir string) string {
	write(t, dir+"/nodes.yaml", oneNode("old"))
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

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
