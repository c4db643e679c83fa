package pods

import (
	"errors"
	"fmt"
	"net"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/guard"
)

// Guarded returns what the guard needs to know of an attachment, false if the
// attachment isn't to be guarded, or its record is of no use.
func Guarded(r attachment.Record) (guard.Pod, bool) {
	mac, err := net.ParseMAC(r.MAC)
	if !r.Guarded || err != nil || len(mac) != 6 {
		return guard.Pod{}, false
	}
	return guard.Pod{Port: r.Owner().Key().HostName(), MAC: mac, Addresses: r.Addresses}, true
}

// SyncGuard guards the ports that the records tell, on whatever bridge, and no others.
// It returns what it changed.
func (h *Host) SyncGuard(off bool) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if off {
		return h.guard.Remove()
	}
	unguardable := 0
	changes, err := h.guard.Sync(func() (want guard.Want, err error) {
		want, unguardable, err = h.guardedPods()
		return want, err
	})
	return changes, h.errUnguarded(err, unguardable)
}

// guardedPods returns what is to be guarded, and how many pods were to be when the
// kernel couldn't. These are guarded once they are made anew.
func (h *Host) guardedPods() (want guard.Want, unguardable int, err error) {
	entries, err := h.store.List()
	if err != nil {
		return guard.Want{}, 0, err
	}
	known := map[string]attachment.Key{} // by port
	bridges := map[string]net.HardwareAddr{}
	for _, e := range entries {
		if e.Err != nil {
			continue
		}
		known[e.Key.HostName()] = e.Key
		if e.Record.Unguardable {
			unguardable++
		}
		pod, ok := Guarded(e.Record)
		if !ok {
			continue
		}
		if _, asked := bridges[e.Record.Bridge]; !asked {
			bridges[e.Record.Bridge] = h.bridge.MAC(e.Record.Bridge)
		}
		pod.Bridge = bridges[e.Record.Bridge]
		want.Pods = append(want.Pods, pod)
	}
	want.Leave = func(port string) bool {
		if key, ok := known[port]; ok {
			return h.busy(key)
		}
		there, err := h.bridge.Exists(port)
		return there || err != nil
	}
	return want, unguardable, nil
}

// RemoveGuard removes the guard of all pods and names what it removed.
func (h *Host) RemoveGuard() ([]string, error) {
	changes, err := h.guard.Remove()
	if len(changes) == 0 {
		return nil, err
	}
	return []string{"table bridge " + guard.TableName}, err
}

// errUnguarded reports that the host can't guard its pods, unless no pod is to be
// guarded.
func (h *Host) errUnguarded(err error, unguardable int) error {
	if errors.Is(err, guard.ErrUnsupported) {
		want, n, listErr := h.guardedPods()
		if unguardable = n; len(want.Pods) == 0 {
			err = nil
		}
		err = errors.Join(err, listErr)
	}
	if unguardable == 0 {
		return err
	}
	return errors.Join(err, fmt.Errorf("%w; then recreate the %d pods of this host that are not guarded", guard.ErrUnsupported, unguardable))
}
