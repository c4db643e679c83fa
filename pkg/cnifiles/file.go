package cnifiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// file is a whole file.
type file struct {
	path    string
	content []byte
	mode    fs.FileMode
}

// next is the file's path before the rename. There is one writer at a time, so the
// name can be fixed, and the next write replaces what a crash left.
func (f file) next() string {
	return filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+".next")
}

// put replaces the file in one step. Processes that have the older file open, or
// run it, keep it. Nothing is synced to the disk: after a power failure the caller
// looks again.
func (f file) put() error {
	err := os.MkdirAll(filepath.Dir(f.path), 0o755)
	if err == nil {
		err = f.write()
	}
	if err == nil {
		err = os.Rename(f.next(), f.path)
	}
	if err == nil {
		return nil
	}
	_ = os.Remove(f.next()) // else the next write replaces it
	return fmt.Errorf("write %s: %w%s", f.path, err, advice(err))
}

// write makes a new file at the path next. Chmod sets the mode whatever the umask
// is.
func (f file) write() error {
	if err := absent(os.Remove(f.next())); err != nil {
		return err
	}
	if err := os.WriteFile(f.next(), f.content, f.mode); err != nil {
		return err
	}
	return os.Chmod(f.next(), f.mode)
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
