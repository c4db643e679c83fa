package cnifiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// file is the whole of a file.
type file struct {
	path    string
	content []byte
	mode    fs.FileMode
}

// next is where the file is before it is in place. There is one writer at a
// time, so the name can be fixed, and what a crash left is overwritten.
func (f file) next() string {
	return filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+".next")
}

// put puts the file in place of an older one, which goes on for those who have
// it open or run it. Nothing is synced to the disk: after a power failure
// whoever put it looks again.
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
	_ = os.Remove(f.next()) // overwritten the next time in any case
	return fmt.Errorf("write %s: %w%s", f.path, err, advice(err))
}

// write makes a new file under the other name, with the mode whatever the umask
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

// advice says what to do about an error of writing, or nothing.
func advice(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return ": mount the directory writable"
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf(": the directory has to belong to user %d, as whom overlayd runs", os.Geteuid())
	}
	return ""
}

// remove tells whether there was a file to remove. It takes along what a crash
// left under the other name.
func (f file) remove() (bool, error) {
	left := absent(os.Remove(f.next()))
	err := os.Remove(f.path)
	return err == nil, errors.Join(absent(err), left)
}

// absent is err unless that says that there is no such file.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
