// Package sysctl reads and sets kernel parameters below /proc/sys of the
// calling thread's network namespace.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Parameter is a kernel parameter and its value, such as "net/ipv4/ip_forward"
// and "1".
type Parameter struct {
	Path  string // below /proc/sys
	Value string
}

// Get returns the value of a parameter; the error is fs.ErrNotExist if there is
// no such one.
func Get(path string) (string, error) {
	value, err := os.ReadFile(filepath.Join("/proc/sys", path))
	return strings.TrimSpace(string(value)), err
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
			err = os.WriteFile(filepath.Join("/proc/sys", p.Path), []byte(p.Value), 0o644)
		}
		if err != nil {
			errs = append(errs, p.explain(have, err))
			continue
		}
		changes = append(changes, fmt.Sprintf("sysctl %s from %s to %s", p.dotted(), have, p.Value))
	}
	return changes, errors.Join(errs...)
}

// dotted is the name as sysctl(8) takes it: a dot in the name of an interface
// becomes a slash.
func (p Parameter) dotted() string { return strings.NewReplacer("/", ".", ".", "/").Replace(p.Path) }

func (p Parameter) explain(have string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sysctl %s has to be %s, but the kernel does not have it: %w", p.dotted(), p.Value, err)
	}
	return fmt.Errorf("sysctl %s is %q and has to be %s, set it on the host: %w", p.dotted(), have, p.Value, err)
}
