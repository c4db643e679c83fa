package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Tree is a folder that looks like a Debian system, as far as its packages go.
type Tree struct {
	Dir string
}

// contents is a file in the tree that says what it was made of.
const contents = ".contents"

// Prepare makes the tree in dir, or reuses an earlier one of the same packages. To
// make the tree it needs the network.
func Prepare(ctx context.Context, dir string, packages []string, parts []string) (*Tree, error) {
	t := &Tree{Dir: filepath.Join(dir, "tree")}
	want := strings.Join(packages, " ") + "\n" + strings.Join(parts, "\n")
	if have, err := os.ReadFile(t.Path(contents)); err == nil && string(have) == want {
		return t, nil
	}
	if err := t.make(ctx, packages, parts, want); err != nil {
		return nil, fmt.Errorf("unpack Debian packages into %s (it takes apt-get, dpkg-deb and the network): %w", dir, err)
	}
	return t, nil
}

// make fills another folder first and renames it, so that a tree is always whole.
func (t *Tree) make(ctx context.Context, packages, parts []string, text string) error {
	work := t.Dir + ".new"
	defer os.RemoveAll(work)
	if err := errors.Join(os.RemoveAll(t.Dir), os.RemoveAll(work), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	scratch := work + "/download"
	if err := download(ctx, scratch, packages); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(archives(scratch), "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := unpack(ctx, deb, work, parts); err != nil {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(scratch), os.WriteFile(filepath.Join(work, contents), []byte(text), 0o644)); err != nil {
		return err
	}
	return os.Rename(work, t.Dir)
}

// unpack unpacks a package; of a kernel's only the parts asked for, for it is
// ten times as large as all others.
func unpack(ctx context.Context, deb, dir string, parts []string) error {
	if !strings.HasPrefix(filepath.Base(deb), "linux-image-") {
		return run(ctx, "dpkg-deb", "--extract", deb, dir)
	}
	const script = `set -o pipefail
deb=$1 dir=$2; shift 2
dpkg-deb --fsys-tarfile "$deb" | tar --extract --directory "$dir" --wildcards --no-wildcards-match-slash "$@"`
	if strings.HasPrefix(filepath.Base(deb), "linux-image-amd64") { // the latest kernel's name, with nothing in it
		return nil
	}
	return run(ctx, "bash", append([]string{"-c", script, "bash", deb, dir}, parts...)...)
}

// Path is the place of a file of the tree.
func (t *Tree) Path(name string) string { return filepath.Join(t.Dir, name) }

// Lock keeps other processes from working in the tree as long as this one runs.
func (t *Tree) Lock() error {
	dir, err := unix.Open(t.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lock %s: %w", t.Dir, err)
	}
	// It is never closed: the lock goes with the process.
	if err := unix.Flock(dir, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w: another run works in it", t.Dir, err)
	}
	return nil
}

// Furnish mounts /dev and /proc in the tree. The caller is in a mount namespace of
// its own, which ends the mounts.
func (t *Tree) Furnish() error {
	for _, name := range []string{"/dev", "/proc"} {
		if err := os.MkdirAll(t.Path(name), 0o755); err != nil {
			return err
		}
		if err := unix.Mount(name, t.Path(name), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", name, t.Path(name), err)
		}
	}
	return nil
}

// folders are where a tree's programs are. Not all packages know yet that /bin
// and /usr/bin are the same.
var folders = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// Command is a program of the tree, with the tree as its root folder.
func (t *Tree) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.Find(name), args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + strings.Join(folders, ":")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: t.Dir}
	return cmd
}

// Find returns the path of a program within the tree. Unlike os/exec it does not
// search the machine's own folders.
func (t *Tree) Find(name string) string {
	for _, dir := range folders {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(t.Path(path)); err == nil {
			return path
		}
	}
	return filepath.Join("/", name) // which is missing, or was a path already
}
