// Package sysctl reads and sets sysctls in the network namespace of the calling
// thread.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/plugins/pkg/utils/sysctl"
	"golang.org/x/sys/unix"
)

// hostRoot is where an unprivileged container finds writable sysctls: its
// /proc/sys is read-only, whatever capabilities it has. Files below net belong
// to the network namespace of the process that opens them. So a container in
// the host's network sets the host's sysctls there, and any other container
// only its own.
const hostRoot = "/host/proc/sys"

// Parameter is a sysctl and its value, such as "net/ipv4/ip_forward" and "1".
type Parameter struct {
	Path  string // below /proc/sys
	Value string
}

// Get returns the value of a sysctl. The error is fs.ErrNotExist if the kernel
// does not have the sysctl.
func Get(path string) (string, error) {
	value, err := sysctl.Sysctl(path)
	return strings.TrimSpace(value), err
}

// Sync sets the sysctls whose value differs, and returns what it changed. If one
// can't be set, Sync still sets the others.
func Sync(want []Parameter) (changes []string, err error) { return sync(want, hostRoot) }

func sync(want []Parameter, writableRoot string) (changes []string, err error) {
	var errs []error
	for _, p := range want {
		have, err := Get(p.Path)
		if err == nil && have == p.Value {
			continue
		}
		if err == nil {
			err = p.write(writableRoot)
		}
		if err != nil {
			errs = append(errs, p.explain(have, err))
			continue
		}
		changes = append(changes, fmt.Sprintf("sysctl %s from %s to %s", p.dotted(), have, p.Value))
	}
	return changes, errors.Join(errs...)
}

// SyncKnown is Sync, but skips sysctls that the kernel doesn't have. IPv6
// sysctls are absent if the kernel has no IPv6 or the interface's MTU is below
// 1280. Nothing is lost by skipping them: the kernel refuses IPv6 addresses
// there anyway.
func SyncKnown(want []Parameter) error {
	var errs []error
	for _, p := range want {
		if _, err := Sync([]Parameter{p}); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Sysctls of one interface (ip-sysctl.rst of the kernel's documentation).
const (
	AcceptRA    = "accept_ra"
	AcceptDAD   = "accept_dad"
	DisableIPv6 = "disable_ipv6"
)

// IPv6 returns a sysctl of IPv6 on an interface.
func IPv6(link, name, value string) Parameter {
	return Parameter{Path: "net/ipv6/conf/" + link + "/" + name, Value: value}
}

// write writes below writableRoot if /proc/sys is read-only. The error is always
// the one that /proc/sys gave.
func (p Parameter) write(writableRoot string) error {
	_, err := sysctl.Sysctl(p.Path, p.Value)
	if errors.Is(err, unix.EROFS) && os.WriteFile(filepath.Join(writableRoot, p.Path), []byte(p.Value), 0) == nil {
		return nil
	}
	return err
}

// String is the form that sysctl(8) and its files use.
func (p Parameter) String() string { return p.dotted() + "=" + p.Value }

// dotted is the name for sysctl(8). A dot in the name of an interface becomes a
// slash.
func (p Parameter) dotted() string { return strings.NewReplacer("/", ".", ".", "/").Replace(p.Path) }

func (p Parameter) explain(have string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("sysctl %s has to be %s, but the kernel does not have it: %w", p.dotted(), p.Value, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("sysctl %s is %q and has to be %s: set it on the host, or mount the host's /proc/sys/net at %s/net: %w",
			p.dotted(), have, p.Value, hostRoot, err)
	}
	return fmt.Errorf("sysctl %s is %q and has to be %s: set it on the host: %w", p.dotted(), have, p.Value, err)
}
