package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrRunDirGone says that somebody deleted the run directory, and this process can't
// make it again: the process is in a container, whose mount still shows the deleted
// one.
var ErrRunDirGone = errors.New("the run directory was deleted on the host while it is mounted here")

// What a few pods need: a page for each record, and an inode for each record and
// address.
const (
	leastBytes  = 128 << 10
	leastInodes = 32
)

// checkRunDir returns an error if the file system of the run directory is full, so
// that new pods can't be connected, or if the directory was deleted.
func checkRunDir(dir string) error {
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(dir, 0o755)
		if err == nil {
			err = unix.Stat(dir, &st)
		}
	}
	if err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Nlink == 0 {
		return fmt.Errorf("%s: %w: restart overlayd", dir, ErrRunDirGone)
	}
	var space unix.Statfs_t
	if err := unix.Statfs(dir, &space); err != nil {
		return &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return checkSpace(dir, space)
}

// checkSpace ignores limits that the file system doesn't have, which are 0.
func checkSpace(dir string, s unix.Statfs_t) error {
	var short []string
	if free := s.Bavail * uint64(s.Bsize); s.Blocks > 0 && free < leastBytes {
		short = append(short, fmt.Sprintf("%d KiB of %d (df %s)", free>>10, s.Blocks*uint64(s.Bsize)>>10, dir))
	}
	if s.Files > 0 && s.Ffree < leastInodes {
		short = append(short, fmt.Sprintf("%d of %d inodes (df -i %s)", s.Ffree, s.Files, dir))
	}
	if len(short) == 0 {
		return nil
	}
	return fmt.Errorf("the file system of %s is full, so new pods can't be connected: free are %s. Remove what other programs left there, or make it larger",
		dir, strings.Join(short, " and "))
}
