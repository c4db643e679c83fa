package nodestate

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// states have one family, the other, and both.
func states() []State {
	v4, v6 := netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244:1::/64")
	var all []State
	for _, subnets := range [][]netip.Prefix{{v4}, {v6}, {v4, v6}, {v6, v4}} {
		all = append(all, State{Node: "host-a", Subnets: subnets, MTU: 1450, Bridge: "cni0", Device: "overlay0"})
	}
	return all
}

func mustWrite(t *testing.T, dir string, s State) {
	t.Helper()
	if _, err := Sync(dir, s); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestReadGivesWhatWasWritten(t *testing.T) {
	for _, s := range states() {
		t.Run(fmt.Sprint(s.Subnets), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "made", "as", "needed")
			mustWrite(t, dir, s)
			got, err := Read(dir)
			s.Version = version
			if diff := cmp.Diff(s, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
			if names := files(t, dir); len(names) != 1 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// The format is read by plugins of other versions.
func TestFormat(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, states()[2])
	got, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "version": 1,
  "node": "host-a",
  "subnets": [
    "10.244.1.0/24",
    "fd00:244:1::/64"
  ],
  "mtu": 1450,
  "bridge": "cni0",
  "device": "overlay0",
  "boot": "BOOT"
}
`
	if diff := cmp.Diff(strings.Replace(want, "BOOT", bootID(), 1), string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestSyncTellsWhetherItChangedAnything(t *testing.T) {
	dir, s := t.TempDir(), states()[0]
	larger := s
	larger.MTU = 8950
	for i, step := range []struct {
		write State
		want  bool
	}{{s, true}, {s, false}, {larger, true}, {larger, false}, {s, true}} {
		before, _ := os.Stat(filepath.Join(dir, FileName))
		changed, err := Sync(dir, step.write)
		if err != nil || (len(changed) > 0) != step.want {
			t.Errorf("step %d: %v, %v", i, changed, err)
		}
		after, err := os.Stat(filepath.Join(dir, FileName))
		if err != nil {
			t.Fatal(err)
		}
		if same := before != nil && os.SameFile(before, after); same == step.want {
			t.Errorf("step %d: the same file: %v", i, same)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"nothing":      {"", "is damaged, and overlayd has not written it anew yet: unexpected end of JSON input"},
		"garbage":      {"\x00\x01", "invalid character"},
		"half a file":  {`{"version": 1, "node": "a", "subnets": ["10.244`, "unexpected end of JSON input"},
		"another list": {`["a"]`, "cannot unmarshal array"},
		"no subnet":    {`{"version": 1, "mtu": 1450, "bridge": "cni0"}`, "version, subnets, mtu or bridge is missing"},
		"no MTU":       {`{"version": 1, "subnets": ["10.244.1.0/24"], "bridge": "cni0"}`, "version, subnets, mtu or bridge is missing"},
		"no version":   {`{"subnets": ["10.244.1.0/24"], "mtu": 1450, "bridge": "cni0"}`, "version, subnets, mtu or bridge is missing"},
		"no network":   {`{"version": 1, "subnets": ["here"], "mtu": 1450, "bridge": "cni0"}`, "here"},
		"newer":        {`{"version": 2, "nets": "in a form to come"}`, "has format 2, which is newer than the 1 that this plugin knows: update overlay-cni"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, tt.text)
			_, err := Read(dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), filepath.Join(dir, FileName)) {
				t.Errorf("got %v", err)
			}
			if damaged := name != "newer"; errors.Is(err, ErrNotPublished) || errors.Is(err, ErrDamaged) != damaged {
				t.Errorf("the error is of another kind: %v", err)
			}
			// The daemon takes it for what it is and writes it anew.
			if changed, err := Sync(dir, states()[0]); len(changed) == 0 || err != nil {
				t.Errorf("overwriting: %v, %v", changed, err)
			}
			if _, err := Read(dir); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReadOfNothing(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Join(dir, "no", "such")} {
		_, err := Read(d)
		if !errors.Is(err, ErrNotPublished) || !strings.Contains(err.Error(), filepath.Join(d, FileName)) {
			t.Errorf("got %v", err)
		}
	}
}

func TestSyncAfterACrash(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "."+FileName+".next"), []byte(`{"half":`+strings.Repeat(" ", 4096)), 0o644); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, dir, states()[0])
	if _, err := Read(dir); err != nil {
		t.Error(err)
	}
	if names := files(t, dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

func TestSyncWhereItCant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if changed, err := Sync(filepath.Join(file, "dir"), states()[0]); err == nil || len(changed) > 0 || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, %v", changed, err)
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, states()[0])
	for range 2 { // that there is none is fine
		if err := Remove(dir); err != nil {
			t.Error(err)
		}
	}
	if _, err := Read(dir); !errors.Is(err, ErrNotPublished) {
		t.Errorf("got %v", err)
	}
}

// What is withdrawn doesn't hold, but is known until something else is
// published, or all is removed.
func TestWithdraw(t *testing.T) {
	dir := t.TempDir()
	first, second := states()[0], states()[1]
	is := func(when string, get func(string) (State, error), want *State) {
		t.Helper()
		got, err := get(dir)
		if want == nil && !errors.Is(err, ErrNotPublished) || want != nil && (err != nil || !slices.Equal(got.Subnets, want.Subnets)) {
			t.Errorf("%s: got %+v, %v", when, got, err)
		}
	}
	is("before", Last, nil)
	mustWrite(t, dir, first)
	is("published", Last, &first)
	for range 2 { // that there is none is fine
		if err := Withdraw(dir); err != nil {
			t.Error(err)
		}
	}
	is("withdrawn", Read, nil)
	is("withdrawn", Last, &first)
	mustWrite(t, dir, second)
	is("published again", Last, &second)
	if err := errors.Join(Withdraw(dir), Remove(dir)); err != nil {
		t.Error(err)
	}
	is("removed", Last, nil)
}

// A reader sees the old file or the new one, and never none or a part.
func TestReaderNeverSeesAPart(t *testing.T) {
	dir := t.TempDir()
	small, large := states()[0], states()[2]
	for i := range 200 { // many subnets make a file of several pages
		large.Subnets = append(large.Subnets, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24))
	}
	mustWrite(t, dir, small)
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			s, err := Read(dir)
			if err == nil && len(s.Subnets) != len(small.Subnets) && len(s.Subnets) != len(large.Subnets) {
				err = fmt.Errorf("%d subnets", len(s.Subnets))
			}
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	for range 300 {
		mustWrite(t, dir, large)
		mustWrite(t, dir, small)
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

// Where files outlive a boot, what was published before it counts as missing.
func TestReadKnowsAnOlderBoot(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, states()[0])
	path := filepath.Join(dir, FileName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, strings.Replace(string(text), bootID(), "9c0e8f5e-0000-0000-0000-000000000000", 1))
	_, err = Read(dir)
	if want := outlivesBoot(dir); errors.Is(err, ErrNotPublished) != want {
		t.Errorf("the error is %v; files outlive a boot here: %t", err, want)
	}
	// Earlier releases didn't write it.
	put(t, dir, strings.Replace(string(text), bootID(), "", 1))
	if _, err := Read(dir); err != nil {
		t.Error(err)
	}
	mustWrite(t, dir, states()[0])
	if _, err := Read(dir); err != nil {
		t.Errorf("published anew: %v", err)
	}
}

// The daemon replaces a link, and the plugin doesn't follow it.
func TestLinksAreReplaced(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	mustWrite(t, filepath.Dir(outside), states()[0])
	if err := os.Rename(filepath.Join(filepath.Dir(outside), FileName), outside); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(outside)
	for _, name := range []string{FileName, "." + FileName + ".next"} {
		path := filepath.Join(dir, name)
		_ = os.Remove(filepath.Join(dir, FileName))
		if err := os.Symlink(outside, path); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(dir); err == nil || (name == FileName && !strings.Contains(err.Error(), path)) {
			t.Errorf("%s: Read returns %v", name, err)
		}
		mustWrite(t, dir, states()[1])
		if s, err := Read(dir); err != nil || s.Node != states()[1].Node {
			t.Errorf("%s: got %v, %v", name, s, err)
		}
		if info, err := os.Lstat(filepath.Join(dir, FileName)); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: the file is %v, %v", name, info, err)
		}
	}
	if after, err := os.ReadFile(outside); err != nil || string(after) != string(before) {
		t.Errorf("the file outside was changed to %q, %v", after, err)
	}
}
