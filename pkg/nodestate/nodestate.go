package nodestate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nofollow"
)

const (
	// DefaultDir is the run directory if the configuration names no other. A run
	// directory has to be on a tmpfs, so that a reboot empties it.
	DefaultDir = "/run/overlay-cni"
	// FileName is the name of the file in the network's state directory
	// (network.Name.StateDir), which the functions below take as dir.
	FileName = "node.json"
	// withdrawnName is the file's name after Withdraw.
	withdrawnName = "node.withdrawn.json"
	// version is the format that is written. Readers refuse a newer one.
	version = 1
)

var (
	// ErrNotPublished says that the daemon has published nothing yet.
	ErrNotPublished = errors.New("overlayd has not published this node's subnets yet")
	// ErrDamaged says that somebody else put something in the file's place. The
	// daemon replaces it.
	ErrDamaged = errors.New("is damaged, and overlayd has not written it anew yet")
)

// State is what a plugin needs to know about its node.
type State struct {
	Version int    `json:"version"`
	Node    string `json:"node"`
	// Subnets are the node's pod subnets, at least one. A pod gets one address of
	// each address family, in the order of the families' first subnets.
	Subnets []netip.Prefix `json:"subnets"`
	MTU     int            `json:"mtu"`    // of pods and bridge, in bytes
	Bridge  string         `json:"bridge"` // interface name
	Device  string         `json:"device"` // interface name of the VXLAN device
	// Unguarded says that pods may send with the addresses of others.
	Unguarded bool `json:"unguarded,omitempty"`
	// Underlay is what carries the tunnel (underlay.Kept). The daemon alone reads it, to
	// make the same choice after a restart. It is a text because the plugin decodes
	// this file for each pod.
	Underlay string `json:"underlay,omitempty"`
}

// Path returns the path of the file.
func Path(dir string) string { return filepath.Join(dir, FileName) }

// Read returns the published state, or an error that is ErrNotPublished or
// ErrDamaged, see Passes.
func Read(dir string) (State, error) { return read(Path(dir)) }

// Last returns the state that was published last, even if it was withdrawn
// since. Its names tell which devices belong to the network. The error is
// ErrNotPublished if nothing was ever published.
func Last(dir string) (State, error) {
	s, err := Read(dir)
	if errors.Is(err, ErrNotPublished) {
		return read(filepath.Join(dir, withdrawnName))
	}
	return s, err
}

func read(path string) (State, error) {
	data, err := nofollow.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return State{}, fmt.Errorf("%w (there is no %s)", ErrNotPublished, path)
	case errors.Is(err, nofollow.ErrUnsafe):
		return State{}, fmt.Errorf("%s %w: %w", path, ErrDamaged, err)
	case err != nil:
		return State{}, err
	}
	f, err := parse(data)
	if err != nil {
		return State{}, fmt.Errorf("%s %w", path, err)
	}
	if f.Boot != "" && outlivesBoot(filepath.Dir(path)) && f.Boot != bootID() {
		return State{}, fmt.Errorf("%w since the host was booted (%s is older)", ErrNotPublished, path)
	}
	return f.State, nil
}

// file is the content of the file.
type file struct {
	State
	// Boot is the kernel's random name for the time since the host was booted.
	// Earlier releases didn't write it.
	Boot string `json:"boot,omitempty"`
}

func parse(data []byte) (file, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return f, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	switch {
	case f.Version > version:
		return f, fmt.Errorf("has format %d, which is newer than the %d that this plugin knows: update overlay-cni", f.Version, version)
	case f.Version < 1 || len(f.Subnets) == 0 || f.MTU <= 0 || f.Bridge == "":
		return f, fmt.Errorf("%w: version, subnets, mtu or bridge is missing", ErrDamaged)
	}
	return f, nil
}

// outlivesBoot reports whether files of the directory are still there after the host
// was booted.
func outlivesBoot(dir string) bool {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	return err == nil && st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC
}

// bootID returns "" where the kernel's /proc is hidden.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// Sync publishes a state. It makes dir if needed, and returns what it changed.
// It leaves the file alone if the content is the same.
func Sync(dir string, s State) (changes []string, err error) {
	s.Version = version
	data, err := json.MarshalIndent(file{s, bootID()}, "", "  ")
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	if old, err := nofollow.ReadFile(filepath.Join(dir, FileName)); err == nil && bytes.Equal(old, data) {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := nofollow.OpenBase(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.WriteFile(FileName, data, 0o644); err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("published this node for the plugin: subnets %v, MTU %d, underlay %s", s.Subnets, s.MTU, s.Underlay)}, nil
}

// Withdraw undoes Sync, but Last still returns the state. It succeeds if nothing
// is published.
func Withdraw(dir string) error {
	return unlessAbsent(os.Rename(filepath.Join(dir, FileName), filepath.Join(dir, withdrawnName)))
}

// Remove undoes Sync, and Last returns no state either. It succeeds if nothing
// is published.
func Remove(dir string) error {
	return errors.Join(
		unlessAbsent(os.Remove(filepath.Join(dir, FileName))),
		unlessAbsent(os.Remove(filepath.Join(dir, withdrawnName))))
}

func unlessAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
