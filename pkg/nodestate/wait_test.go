package nodestate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Time in these tests is synctest's: it goes on only while everybody waits.
const limit = 10 * time.Second

func TestWaitReturnsAtOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		limit time.Duration
		make  func(t *testing.T, dir string)
		want  string
	}{
		"published":       {limit, func(t *testing.T, dir string) { mustWrite(t, dir, states()[0]) }, ""},
		"no time to wait": {0, func(*testing.T, string) {}, "has not published"},
		"a newer format": {limit, func(t *testing.T, dir string) {
			mustWrite(t, dir, states()[0])
			put(t, dir, `{"version": 2}`)
		}, "update overlay-cni"},
		"no directory could be there": {limit, func(t *testing.T, dir string) {
			if err := os.WriteFile(dir, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			tt.make(t, dir)
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				s, err := Wait(dir, tt.limit)
				switch {
				case tt.want == "" && (err != nil || s.Node != "host-a"):
					t.Errorf("%v, node %q", err, s.Node)
				case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
					t.Errorf("%v does not say %q", err, tt.want)
				}
				if took := time.Since(start); took > 0 {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

func TestWaitEndsWithThePublication(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "no", "such") // the daemon makes it
	const after = 3 * time.Second
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		time.AfterFunc(after, func() { mustWrite(t, dir, states()[0]) })
		s, err := Wait(dir, limit)
		if err != nil || s.Node != "host-a" {
			t.Errorf("%v, node %q", err, s.Node)
		}
		if took := time.Since(start); took < after || took > after+pollInterval {
			t.Errorf("it took %s, want %s and a look", took, after)
		}
	})
}

func TestWaitEndsWithTheRepair(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "{")
	synctest.Test(t, func(t *testing.T) {
		time.AfterFunc(time.Second, func() { mustWrite(t, dir, states()[0]) })
		if s, err := Wait(dir, limit); err != nil || s.Node != "host-a" {
			t.Errorf("%v, node %q", err, s.Node)
		}
		put(t, dir, "{")
		if _, err := Wait(dir, limit); !errors.Is(err, ErrDamaged) || !strings.HasPrefix(err.Error(), "waited 10s: ") {
			t.Errorf("got %v", err)
		}
	})
}

func TestWaitEndsWithItsLimit(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := Wait(dir, limit)
		if !errors.Is(err, ErrNotPublished) || !strings.HasPrefix(err.Error(), "waited 10s: ") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took != limit {
			t.Errorf("it took %s, want %s", took, limit)
		}
	})
}
