package nodestate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// long is a wait that no test comes to the end of: a change ends it.
const long = 30 * time.Second

type answer struct {
	state State
	err   error
	took  time.Duration
}

// waiting starts to wait and returns when the directory is being watched.
func waiting(t *testing.T, dir string, limit time.Duration) <-chan answer {
	t.Helper()
	done := make(chan answer, 1)
	before := watches(t)
	start := time.Now()
	go func() {
		s, err := Wait(dir, limit)
		done <- answer{s, err, time.Since(start)}
	}()
	until(t, func() bool { return watches(t) > before })
	return done
}

// watches counts the inotify watches of this process.
func watches(t *testing.T) int {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, info := range infos {
		if text, err := os.ReadFile(info); err == nil {
			n += strings.Count(string(text), "inotify wd:")
		}
	}
	return n
}

// until is for what nobody can subscribe to.
func until(t *testing.T, is func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(10 * time.Second); !is(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to that")
		}
	}
}

func (a answer) published(t *testing.T) {
	t.Helper()
	if a.err != nil || a.state.Node != "host-a" || a.took > long/2 {
		t.Errorf("%v, node %q, after %s", a.err, a.state.Node, a.took)
	}
}

func TestWaitForNothingButTheFile(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, states()[0])
	s, err := Wait(dir, long)
	answer{state: s, err: err}.published(t)
}

func TestWaitEndsWithThePublication(t *testing.T) {
	for name, tt := range map[string]struct {
		dir       string
		meanwhile func(t *testing.T, dir string)
	}{
		"published":             {"", func(*testing.T, string) {}},
		"no directory at first": {"no/such", func(*testing.T, string) {}},
		"other files come first": {"", func(t *testing.T, dir string) {
			other := filepath.Join(dir, "other")
			for i := range 2000 { // more events than are read at once
				next := fmt.Sprint(other, i%7)
				if err := errors.Join(os.WriteFile(next, nil, 0o644), os.Rename(next, other)); err != nil {
					t.Fatal(err)
				}
			}
		}},
		"the directory is made anew": {"run", func(t *testing.T, dir string) {
			if err := errors.Join(os.Remove(dir), os.MkdirAll(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
		}},
		"the directory is moved away": {"run", func(t *testing.T, dir string) {
			if err := errors.Join(os.Rename(dir, dir+".old"), os.MkdirAll(dir, 0o755)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), tt.dir)
			done := waiting(t, dir, long)
			tt.meanwhile(t, dir)
			mustWrite(t, dir, states()[0])
			(<-done).published(t)
			until(t, func() bool { return watches(t) == 0 })
		})
	}
}

func TestWaitEnds(t *testing.T) {
	dir := t.TempDir()
	a := <-waiting(t, dir, 50*time.Millisecond)
	if !errors.Is(a.err, ErrNotPublished) || !strings.HasPrefix(a.err.Error(), "waited 50ms: ") {
		t.Errorf("got %v", a.err)
	}
	if a.took < 50*time.Millisecond || a.took > long/2 {
		t.Errorf("after %s", a.took)
	}
	if _, err := Wait(dir, 0); !errors.Is(err, ErrNotPublished) || strings.Contains(err.Error(), "waited") {
		t.Errorf("without waiting: %v", err)
	}
	if n := watches(t); n > 0 {
		t.Errorf("%d watches are left", n)
	}
}

func TestWaitDoesNotWaitForABadFileToGetBetter(t *testing.T) {
	dir := t.TempDir()
	done := waiting(t, dir, long)
	next := filepath.Join(dir, "next")
	if err := errors.Join(os.WriteFile(next, []byte(`{"version": 2}`), 0o644), os.Rename(next, filepath.Join(dir, FileName))); err != nil {
		t.Fatal(err)
	}
	if a := <-done; a.err == nil || !strings.Contains(a.err.Error(), "update overlay-cni") || a.took > long/2 {
		t.Errorf("%v after %s", a.err, a.took)
	}
}

func TestWaitWhereItCant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Wait(filepath.Join(file, "dir"), long); err == nil || errors.Is(err, ErrNotPublished) {
		t.Errorf("got %v", err)
	}
}
