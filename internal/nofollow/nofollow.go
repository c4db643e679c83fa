// Package nofollow opens files without following links. The run directory can be
// written by the daemon's container, which has fewer rights than the plugin, which
// is root on the host. A link there would let the container choose a file of the
// host for the plugin to read or overwrite.
//
// Invariant: a folder and a file in it are opened only if each is itself what its
// name says, a folder or a regular file with one name. The way to the folder is
// followed: whoever can change that needs no link.
//
// It needs no openat2(2), which Linux has since 5.6 and seccomp profiles refuse: a
// file is opened relative to its open folder, with O_NOFOLLOW for both.
package nofollow

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrUnsafe is for something that is not what its name says: a symbolic link, a
// file with several names, a pipe, a device.
var ErrUnsafe = errors.New("is not followed")

// Folder is an open folder.
type Folder struct {
	fd   int
	path string
}

// Open opens a folder. The last component of the path must not be a link. The
// error is fs.ErrNotExist if nothing is there.
func Open(path string) (Folder, error) {
	fd, err := open(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return Folder{fd: -1}, explain("open", path, err)
	}
	return Folder{fd, path}, nil
}

// OpenBase is Open for a folder that an administrator chose: if the path is a link,
// it is meant.
func OpenBase(path string) (Folder, error) {
	f, err := Open(path + "/.")
	f.path = path
	return f, err
}

// Make opens a folder, and makes it and those above it if they are missing.
func Make(path string) (Folder, error) {
	f, err := Open(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return f, err
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return f, err
	}
	return Open(path)
}

// Close closes the folder.
func (f Folder) Close() { _ = unix.Close(f.fd) }

// Path returns the path of a file in the folder, for messages.
func (f Folder) Path(name string) string { return filepath.Join(f.path, name) }

// OpenFile opens a regular file in the folder, for reading and writing or with
// O_EXCL: only then a pipe doesn't block. With O_EXCL nothing may be there.
//
// It does not use os.OpenFile, which offers the file to the poller first: nine
// system calls.
func (f Folder) OpenFile(name string, flags int) (*os.File, error) {
	fd, err := f.open(name, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Path(name)), nil
}

func (f Folder) open(name string, flags int) (int, error) {
	fd, err := open(f.fd, name, flags, 0o644)
	if err != nil {
		return -1, explain("open", f.Path(name), err)
	}
	if flags&unix.O_EXCL != 0 {
		return fd, nil
	}
	if err := regular(fd, f.Path(name)); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// regular returns an error unless fd is a regular file that has no other name. A
// file without a name is fine: somebody has just removed it.
func regular(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return unsafe(path, "is not a regular file")
	case st.Nlink > 1:
		return unsafe(path, "has another name, too (a hard link)")
	}
	return nil
}

// ReadFile reads a regular file in the folder.
func (f Folder) ReadFile(name string) ([]byte, error) {
	content, _, err := f.ReadFileAt(name)
	return content, err
}

// ReadFileAt is ReadFile, and tells when the file was written last.
func (f Folder) ReadFileAt(name string) ([]byte, time.Time, error) {
	// A pipe would block without O_NONBLOCK.
	fd, err := f.open(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, time.Time{}, f.fail("stat", name, err)
	}
	content, err := readAll(fd, st.Size)
	return content, time.Unix(st.Mtim.Unix()), f.fail("read", name, err)
}

func readAll(fd int, size int64) ([]byte, error) {
	content := make([]byte, 0, size+1) // the last byte is for the end of the file
	for {
		if len(content) == cap(content) {
			content = append(content, 0)[:len(content)]
		}
		n, err := unix.Read(fd, content[len(content):cap(content)])
		switch {
		case errors.Is(err, unix.EINTR):
		case n <= 0:
			return content, err
		default:
			content = content[:len(content)+n]
		}
	}
}

// WriteFile puts a file with this content in place in one step. What was there is
// replaced, and a link is not followed. There is one writer at a time, so the name
// that the file has first can be fixed: the next WriteFile removes what a crash
// left.
func (f Folder) WriteFile(name string, content []byte, mode fs.FileMode) error {
	next := "." + name + ".next"
	err := f.writeNew(next, content, mode)
	if err == nil {
		err = f.fail("rename", name, unix.Renameat(f.fd, next, f.fd, name))
	}
	if err != nil {
		_ = f.Remove(next) // else the next WriteFile removes it
	}
	return err
}

func (f Folder) writeNew(name string, content []byte, mode fs.FileMode) error {
	if err := f.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := f.OpenFile(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	// The mode is what it is whatever the umask.
	return errors.Join(err, file.Chmod(mode), file.Close())
}

// Symlink makes a symbolic link in the folder, which is never followed. The error
// is fs.ErrExist if the name is taken.
func (f Folder) Symlink(target, name string) error {
	return f.fail("symlink", name, unix.Symlinkat(target, f.fd, name))
}

// Readlink returns the target of a symbolic link in the folder.
func (f Folder) Readlink(name string) (string, error) {
	const longest = 1024 // of a target that we write: less than 300
	var buf [longest]byte
	n, err := unix.Readlinkat(f.fd, name, buf[:])
	if err != nil {
		return "", f.fail("readlink", name, err)
	}
	return string(buf[:n]), nil
}

// Rename renames something in the folder, in one step. What has the new name is
// replaced.
func (f Folder) Rename(from, to string) error {
	return f.fail("rename", from, unix.Renameat(f.fd, from, f.fd, to))
}

// Remove removes a file or a link in the folder.
func (f Folder) Remove(name string) error {
	return f.fail("remove", name, unix.Unlinkat(f.fd, name, 0))
}

// Has reports whether something of that name is in the folder.
func (f Folder) Has(name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// Names lists what is in the folder.
func (f Folder) Names() ([]string, error) {
	// A descriptor of its own, because the position in the list belongs to it.
	fd, err := open(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, explain("open", f.path, err)
	}
	d := os.NewFile(uintptr(fd), f.path)
	defer d.Close()
	return d.Readdirnames(-1)
}

func (f Folder) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return explain(op, f.Path(name), err)
}

// ReadFile reads a regular file. The last component of the path must not be a
// link.
func ReadFile(path string) ([]byte, error) {
	return Folder{unix.AT_FDCWD, ""}.ReadFile(path)
}

// ReadAnyFile is ReadFile for a folder that administrators keep, whose links are
// meant. It returns an error for pipes and devices, which would block.
func ReadAnyFile(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, unsafe(path, "is not a regular file"))
	}
	return io.ReadAll(file)
}

func open(dir int, path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, path, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// explain turns the errors by which the kernel refuses a link, a pipe or a device
// into ErrUnsafe. The errors of a full file system say what to do.
func explain(op, path string, err error) error {
	switch {
	case errors.Is(err, unix.ELOOP):
		return unsafe(path, "is a symbolic link")
	case errors.Is(err, unix.ENOTDIR):
		info, absent := os.Lstat(path)
		switch {
		case absent != nil: // something above it is no folder
		case info.Mode()&fs.ModeSymlink != 0:
			return unsafe(path, "is a symbolic link")
		default:
			return unsafe(path, "is not a directory")
		}
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENODEV):
		return unsafe(path, "is not a regular file")
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

func unsafe(path, what string) error {
	return fmt.Errorf("%s %s, which %w: somebody else put it there, remove it", path, what, ErrUnsafe)
}
