package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Host is a machine of the lab.
type Host struct {
	Name string

	lab    *Lab
	net    *stack
	plan   plan
	daemon *Daemon
	pods   map[string]*Pod
}

// Netns is the host's network namespace.
func (h *Host) Netns() *sandbox.Netns { return h.net.ns }

// Handle is netlink in the host's namespace. It belongs to the host.
func (h *Host) Handle() *netlink.Handle { return h.net.Handle }

// Addresses are the host's own on the segment, in the order of the lab's
// segments.
func (h *Host) Addresses() []netip.Addr { return addrs(h.plan.underlay) }

// Subnets are the host's pod subnets, in the order of the lab's pod networks.
func (h *Host) Subnets() []netip.Prefix { return h.plan.subnets }

// RunDir is where the host's overlayd and its plugin meet.
func (h *Host) RunDir() string { return h.file("run") }

func (h *Host) file(name string) string { return filepath.Join(h.lab.config.Dir, h.Name, name) }

// HasRoute reports whether the host has a route to exactly dst.
func (h *Host) HasRoute(dst netip.Prefix) (bool, error) { return h.net.hasRoute(dst) }

// Unplug cuts the host off the switch.
func (h *Host) Unplug() error { return h.lab.wire.down(h.Name) }

// PlugIn ends Unplug.
func (h *Host) PlugIn() error { return h.lab.wire.up(h.Name) }

// Remove takes the host away as a power cut does: its daemon is killed, pods
// and network vanish. The registry is left as it is.
func (h *Host) Remove() error {
	var errs []error
	if h.daemon != nil {
		errs = append(errs, h.daemon.Kill())
	}
	for _, p := range h.pods {
		errs = append(errs, p.net.Close())
	}
	delete(h.lab.hosts, h.Name)
	// The veth pair ends with either end, but only once the namespace has come
	// to its own end, which is later. The name is to be free at once.
	errs = append(errs, h.lab.wire.deleteLink(h.Name), h.net.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove host %q: %w", h.Name, err)
	}
	return nil
}
