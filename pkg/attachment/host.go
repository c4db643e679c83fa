package attachment

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

// Host is where attachments are: a run directory and a network namespace. It is
// for one goroutine at a time.
type Host struct {
	store  *ipam.Store
	bridge *bridge.Kernel
	ports  *hostport.Kernel
}

// Open opens the network namespace of the calling thread.
func Open(runDir string) (*Host, error) {
	b, err := bridge.Open()
	if err != nil {
		return nil, err
	}
	p, err := hostport.Open()
	if err != nil {
		b.Close()
		return nil, err
	}
	return &Host{store: ipam.Open(runDir), bridge: b, ports: p}, nil
}

// Close closes the sockets.
func (h *Host) Close() {
	h.ports.Close()
	h.bridge.Close()
}

// Sync has all attachments be as ADD made them, and frees what belongs to none:
// it plugs pods' ports into the bridge again, opens their host ports and closes
// others, and removes attachments whose pods are gone. It returns what it
// changed. Attachments that an ADD or DEL works on are left alone.
func (h *Host) Sync(s bridge.Spec) ([]string, error) {
	entries, err := h.store.List()
	if err != nil {
		return nil, err
	}
	plugged, missing, err := h.bridge.SyncPorts(s, portsOf(entries, s.Name))
	swept, sweepErr := h.sweep(entries, missing, s.Name)
	opened, portErr := h.ports.Sync(func() (hostport.Want, error) { return h.hostPorts(s.Name) })
	return slices.Concat(plugged, swept, opened), errors.Join(err, sweepErr, portErr)
}

// portsOf are the names that the ports of a bridge should have.
func portsOf(entries []ipam.Entry, bridge string) []string {
	var names []string
	for _, e := range entries {
		if e.Err == nil && e.Record.Bridge == bridge {
			names = append(names, e.Key.HostName())
		}
	}
	return names
}

// sweep removes attachments that no pod can have any more: their pair is gone,
// with the pod's network namespace, and the runtime was not there to call DEL.
func (h *Host) sweep(entries []ipam.Entry, missing []string, bridge string) ([]string, error) {
	var changes []string
	var errs []error
	for _, e := range entries {
		seen := e.Err == nil && e.Record.Bridge == bridge // by SyncPorts
		if errors.Is(e.Err, ipam.ErrNewer) || (seen && !slices.Contains(missing, e.Key.HostName())) {
			continue
		}
		gone, err := h.removeLost(e.Key)
		if gone {
			changes = append(changes, fmt.Sprintf("removed the lost attachment %s with addresses %v", e.Key, e.Record.Addresses))
		}
		errs = append(errs, err)
	}
	freed, err := h.store.FreeLost(nil)
	if len(freed) > 0 {
		changes = append(changes, fmt.Sprintf("freed the addresses %v, which no attachment has", freed))
	}
	return changes, errors.Join(append(errs, err)...)
}

// removeLost removes an attachment if it has no pair, which under its lock says
// that it won't get one any more.
func (h *Host) removeLost(key ipam.Key) (bool, error) {
	if h.bridge.Exists(key.HostName()) {
		return false, nil
	}
	a, err := h.store.TryLock(key)
	if errors.Is(err, ipam.ErrBusy) || errors.Is(err, fs.ErrNotExist) {
		return false, nil // an ADD or DEL takes care of it
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = a.Close() }()
	if h.bridge.Exists(key.HostName()) {
		return false, nil // an ADD just came to its end
	}
	if err := Remove(h.bridge, key, a); err != nil {
		return false, fmt.Errorf("remove the lost attachment %s: %w", key, err)
	}
	return true, nil
}

// hostPorts lists what pods have as host ports, the oldest first. Records that
// can't be read have none.
func (h *Host) hostPorts(bridge string) (hostport.Want, error) {
	entries, err := h.store.List()
	if err != nil {
		return hostport.Want{}, err
	}
	slices.SortStableFunc(entries, func(a, b ipam.Entry) int { return a.Written.Compare(b.Written) })
	want := hostport.Want{Bridge: bridge}
	for _, e := range entries {
		if e.Err != nil || len(e.Record.HostPorts) == 0 {
			continue
		}
		mappings, err := hostport.Parse(e.Record.HostPorts)
		if err != nil || len(mappings) == 0 {
			continue
		}
		want.Pods = append(want.Pods, hostport.Pod{
			Bridge: e.Record.Bridge, Addresses: e.Record.Addresses, Mappings: mappings, Busy: h.busy(e.Key),
		})
	}
	return want, nil
}

// busy tells whether an ADD or DEL works on an attachment, or ended just now.
func (h *Host) busy(key ipam.Key) bool {
	a, err := h.store.TryLock(key)
	if err != nil {
		return true
	}
	_ = a.Close()
	return false
}
