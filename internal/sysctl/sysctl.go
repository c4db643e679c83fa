// Package sysctl reads and sets kernel parameters below /proc/sys of the
// calling thread's network namespace.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Parameter is a kernel parameter and its value, such as "net/ipv4/ip_forward"
// and "1".
type Parameter struct {
	Path  string // below /proc/sys
	Value string
}

// File is where the kernel shows the parameter.
func (p Parameter) File() string { return filepath.Join(root, p.Path) }

// Get returns the value of a parameter; the error is fs.ErrNotExist if there is
// no such one.
func Get(path string) (string, error) {
	path = filepath.Join(root, path)
	// Not os.ReadFile, which would also ask the poller about it: that takes nine
	// system calls.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var value [256]byte
	n, err := unix.Read(fd, value[:])
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return strings.TrimSpace(string(value[:n])), nil
}

// Ensure sets the parameters that have another value and returns what it set.
// One that can't be set doesn't stop the others.
func Ensure(want []Parameter) ([]string, error) {
	var changes []string
	var errs []error
	for _, p := range want {
		have, err := Get(p.Path)
		if err == nil && have == p.Value {
			continue
		}
		if err == nil {
			err = p.write()
		}
		if err != nil {
			errs = append(errs, p.explain(have, err))
			continue
		}
		changes = append(changes, fmt.Sprintf("sysctl %s from %s to %s", p.dotted(), have, p.Value))
	}
	return changes, errors.Join(errs...)
}

// String is the form that sysctl(8) and its files have.
func (p Parameter) String() string { return p.dotted() + "=" + p.Value }

// dotted is the name as sysctl(8) takes it: a dot in the name of an interface
// becomes a slash.
func (p Parameter) dotted() string { return strings.NewReplacer("/", ".", ".", "/").Replace(p.Path) }

func (p Parameter) explain(have string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sysctl %s has to be %s, but the kernel does not have it: %w", p.dotted(), p.Value, err)
	}
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("sysctl %s is %q and has to be %s, set it on the host, or mount the host's %s/net at %s/net: %w",
			p.dotted(), have, p.Value, root, hostRoot, err)
	}
	return fmt.Errorf("sysctl %s is %q and has to be %s, set it on the host: %w", p.dotted(), have, p.Value, err)
}
