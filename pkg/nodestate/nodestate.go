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

// ErrNotPublished says that the daemon has published nothing yet.
var ErrNotPublished = errors.New("overlayd has not published this node's subnets yet")

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
}

// Read returns the published state, or an error that is ErrNotPublished.
func Read(dir string) (State, error) { return read(filepath.Join(dir, FileName)) }

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
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("%w (there is no %s)", ErrNotPublished, path)
	}
	if err != nil {
		return State{}, err
	}
	state, err := parse(data)
	if err != nil {
		return State{}, fmt.Errorf("%s: %w: restart overlayd, which writes this file anew", path, err)
	}
	return state, nil
}

func parse(data []byte) (State, error) {
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, err
	}
	switch {
	case s.Version > version:
		return State{}, fmt.Errorf("format %d is newer than the %d that this plugin knows, update overlay-cni", s.Version, version)
	case s.Version < 1 || len(s.Subnets) == 0 || s.MTU <= 0 || s.Bridge == "":
		return State{}, errors.New("version, subnets, mtu or bridge is missing")
	}
	return s, nil
}

// Sync publishes a state. It makes dir if needed, and returns what it changed.
// It leaves the file alone if the content is the same.
func Sync(dir string, s State) (changes []string, err error) {
	s.Version = version
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	path := filepath.Join(dir, FileName)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// There is one writer at a time, so the temporary name can be fixed. The next
	// Sync overwrites what a crash left.
	next := filepath.Join(dir, "."+FileName+".next")
	if err := os.WriteFile(next, data, 0o644); err != nil {
		return nil, err
	}
	if err := os.Rename(next, path); err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("published this node for the plugin: subnets %v, MTU %d", s.Subnets, s.MTU)}, nil
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
