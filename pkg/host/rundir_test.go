package host

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheckSpace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		space unix.Statfs_t
		want  string // "" for enough
	}{
		{"enough", unix.Statfs_t{Bsize: 4096, Blocks: 1000, Bavail: 32, Files: 100, Ffree: 32}, ""},
		{"no limits", unix.Statfs_t{Bsize: 4096}, ""},
		{"no page left", unix.Statfs_t{Bsize: 4096, Blocks: 1000, Files: 100, Ffree: 50}, "free are 0 KiB of 4000 (df /run/x)."},
		{"no inode left", unix.Statfs_t{Bsize: 4096, Blocks: 1000, Bavail: 100, Files: 100, Ffree: 3}, "free are 3 of 100 inodes (df -i /run/x)."},
		{"neither", unix.Statfs_t{Bsize: 4096, Blocks: 1000, Bavail: 31, Files: 100}, "free are 124 KiB of 4000 (df /run/x) and 0 of 100 inodes (df -i /run/x)."},
	} {
		err := checkSpace("/run/x", tt.space)
		if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestCheckRunDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := checkRunDir(dir); err != nil {
		t.Errorf("it is made if it is missing: %v", err)
	}
	// A process whose view of the directory outlives it: here by its working
	// directory, in a container by its mount.
	t.Chdir(dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := checkRunDir("."); !errors.Is(err, ErrRunDirGone) {
		t.Errorf("deleted: got %v", err)
	}
	if err := checkRunDir("/dev/null/x"); err == nil || errors.Is(err, ErrRunDirGone) {
		t.Errorf("no directory: got %v", err)
	}
}
