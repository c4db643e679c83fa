package host

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/pods"
)

// Pods returns the pods that are on the network: by their names, or else by the
// host's end of their veth pair. It goes by the records and by the bridge's
// ports, since the records are lost with the run directory.
func (h *Host) Pods(bridge string) ([]string, error) {
	entries, err := h.store.List()
	if err != nil {
		return nil, err
	}
	names, err := h.podPorts(bridge)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, i := e.Key.HostName(), slices.Index(names, e.Key.HostName())
		there, err := h.bridge.Exists(name)
		if err != nil {
			return nil, err
		}
		if i < 0 && there {
			i, names = len(names), append(names, name)
		}
		if i >= 0 && e.Record.Pod != "" {
			names[i] = e.Record.Pod
		}
	}
	slices.Sort(names)
	return names, nil
}

// podPorts returns the ports of the bridge that have names of pods' ports. A
// bridge that is another kind of device has none.
func (h *Host) podPorts(name string) ([]string, error) {
	ports, err := h.bridge.Ports(name)
	if errors.Is(err, bridge.ErrUnmanaged) {
		return nil, nil
	}
	return slices.DeleteFunc(ports, func(port string) bool { return attachment.DevicesOf(port) == nil }), err
}

// removePods takes all pods off the network, those that are only on record too,
// and then the table of their host ports.
func (h *Host) removePods(bridge string) ([]string, error) {
	entries, err := h.store.List()
	errs := []error{err}
	var removed []string
	for _, e := range entries {
		was, err := h.removePod(e)
		if was {
			removed = append(removed, fmt.Sprintf("pod %s %v", e.Key, e.Record.Addresses))
		}
		errs = append(errs, err)
	}
	ports, err := h.podPorts(bridge)
	errs = append(errs, err)
	for _, port := range ports {
		errs = append(errs, h.bridge.Remove(attachment.DevicesOf(port)...))
		removed = append(removed, "port "+port)
	}
	was, err := removeHostPorts()
	if was {
		removed = append(removed, "table inet "+hostport.TableName)
	}
	return removed, errors.Join(append(errs, err)...)
}

func (h *Host) removePod(e attachment.Entry) (bool, error) {
	a, err := h.store.TryLock(e.Key)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		defer func() { _ = a.Close() }()
		err = pods.Remove(h.bridge, e.Key, a)
	}
	if err != nil {
		return false, fmt.Errorf("take pod %s off the network: %w", e.Key, err)
	}
	return true, nil
}

func removeHostPorts() (bool, error) {
	k, err := hostport.Open()
	if err == nil {
		defer k.Close()
		return k.Remove()
	}
	if errors.Is(err, hostport.ErrUnsupported) {
		return false, nil
	}
	return false, err
}
