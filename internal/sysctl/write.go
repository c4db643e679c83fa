package sysctl

import (
	"errors"
	"os"
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
	err := os.WriteFile(filepath.Join(first, p.Path), []byte(p.Value), 0o644)
	if errors.Is(err, unix.EROFS) && os.WriteFile(filepath.Join(second, p.Path), []byte(p.Value), 0o644) == nil {
		return nil
	}
	return err
}
