package sysctl

import (
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	root = "/proc/sys"
	// hostRoot is where a container that is not privileged finds a second way to
	// the same files: its /proc/sys is read-only, whatever rights it has. What is
	// below net is that of the network namespace of who opens it; so the host's
	// /proc/sys/net mounted here lets a container in the host's network set the
	// host's parameters, and any other no more than its own.
	hostRoot = "/host/proc/sys"
)

func (p Parameter) write() error { return p.writeTo(root, hostRoot) }

// writeTo takes the second way where the first is read-only. The error is that
// of the first.
func (p Parameter) writeTo(first, second string) error {
	err := p.writeBelow(first)
	if errors.Is(err, unix.EROFS) && p.writeBelow(second) == nil {
		return nil
	}
	return err
}

// writeBelow is not os.WriteFile, for the reason that Get has.
func (p Parameter) writeBelow(dir string) error {
	path := filepath.Join(dir, p.Path)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := unix.Write(fd, []byte(p.Value)); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
