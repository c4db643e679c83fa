package cnifiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nofollow"
)

// file is a whole file.
type file struct {
	path    string
	content []byte
	mode    fs.FileMode
}

// next is the file's path before the rename (nofollow.Folder.WriteFile).
func (f file) next() string {
	return filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+".next")
}

// put replaces the file in one step. Processes that have the older file open, or
// run it, keep it. If a link is in its place, the link is replaced. Nothing is synced
// to the disk: after a power failure the caller looks again.
func (f file) put() error {
	if err := f.write(); err != nil {
		return fmt.Errorf("write %s: %w%s", f.path, err, advice(err))
	}
	return nil
}

func (f file) write() error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return err
	}
	folder, err := nofollow.OpenBase(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.WriteFile(filepath.Base(f.path), f.content, f.mode)
}

// advice says how to repair the cause of a write error, or nothing.
func advice(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return ": mount the directory writable"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf(": the directory has to belong to user %d, as whom overlayd runs", os.Geteuid())
	}
	return ""
}

// remove reports whether it removed the file. It removes what a crash left at the
// path next too.
func (f file) remove() (bool, error) {
	left := absent(os.Remove(f.next()))
	err := os.Remove(f.path)
	return err == nil, errors.Join(absent(err), left)
}

// absent returns nil if err says that the file does not exist, else err.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
