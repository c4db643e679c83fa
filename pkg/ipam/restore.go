package ipam

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nofollow"
)

// restore makes the folder of the reservations. If addresses are in use all the
// same, somebody removed the folder while pods run. Then the folder appears in one
// step, with reservations of these addresses in it, so that no ADD can take one of
// them.
func (r *Reservations) restore() error {
	used, err := r.used()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	if len(used) == 0 {
		return unlessExists(os.Mkdir(r.Path(), 0o755))
	}
	next, err := os.MkdirTemp(r.dir, "."+addressesDir+"-*.next")
	if err != nil {
		return err
	}
	defer os.RemoveAll(next) // does nothing if it has its name by now
	if err := fill(next, used); err != nil {
		return err
	}
	return unlessExists(rename(next, r.Path()))
}

func fill(folder string, used map[netip.Addr]Owner) error {
	if err := os.Chmod(folder, 0o755); err != nil {
		return err
	}
	f, err := nofollow.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	for a, owner := range used {
		if err := f.Symlink(string(owner), a.String()); err != nil {
			return err
		}
	}
	return nil
}

// rename gives a folder a name that nothing has. Plain rename(2), for file systems
// without RENAME_NOREPLACE, would replace an empty folder: nothing is lost.
func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// unlessExists returns nil if another process was faster.
func unlessExists(err error) error {
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return err
}
