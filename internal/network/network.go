// Package network names overlay networks. Everything that belongs to one network
// on a host derives its own name or path from the network's name here, so that
// several networks can share a host.
package network

import "path/filepath"

// Name is the name of an overlay network.
type Name string

// Default is the name of a host's only network today.
const Default Name = "default"

// StateDir returns the directory of the network's reservations, attachments and
// published state. The default network uses the run directory itself: a host
// that is upgraded in place finds there what the previous release wrote.
func (n Name) StateDir(runDir string) string {
	if n == Default {
		return runDir
	}
	return filepath.Join(runDir, "networks", string(n))
}

// TunnelAlias returns the alias of the network's tunnel device, which "ip link"
// shows. It marks the device as ours, whatever its name, and tells it from the
// devices of other networks.
func (n Name) TunnelAlias() string {
	const ours = "overlay-cni"
	if n == Default {
		return ours
	}
	return ours + "/" + string(n)
}
