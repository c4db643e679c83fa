package pods

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
)

// Names returns the pods that are on the network: the name of each pod, or the
// host's end of its veth pair. It reads the records and the bridge's ports, because
// the records are lost with the run directory.
func (h *Host) Names(bridge string) ([]string, error) {
	entries, err := h.store.List()
	if err != nil {
		return nil, err
	}
	names, err := h.podPorts(bridge)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Key.HostName()
		i := slices.Index(names, name)
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

// podPorts returns the ports of the bridge that have names of pods' ports. A device
// that is no bridge has none.
func (h *Host) podPorts(bridgeName string) ([]string, error) {
	ports, err := h.bridge.Ports(bridgeName)
	if errors.Is(err, bridge.ErrUnmanaged) {
		return nil, nil
	}
	return slices.DeleteFunc(ports, func(port string) bool { return attachment.DevicesOf(port) == nil }), err
}

// Remove takes all pods off the network, also those that are only on record. It
// returns what it removed. It is for a host that leaves the network, where no plugin
// runs any more.
func (h *Host) Remove(bridge string) ([]string, error) {
	entries, err := h.store.List()
	errs := []error{err}
	var removed []string
	for _, e := range entries {
		was, err := h.removePod(e.Key)
		if was {
			removed = append(removed, fmt.Sprintf("pod %s %v", cmp.Or(e.Record.Pod, string(e.Key)), e.Record.Addresses))
		}
		errs = append(errs, err)
	}
	ports, err := h.podPorts(bridge)
	errs = append(errs, err)
	for _, port := range ports {
		errs = append(errs, h.bridge.Remove(attachment.DevicesOf(port)...))
		removed = append(removed, "port "+port)
	}
	return removed, errors.Join(errs...)
}

func (h *Host) removePod(key attachment.Key) (bool, error) {
	a, err := h.store.TryLock(key)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		defer func() { _ = a.Close() }()
		err = Remove(h.bridge, key, a)
	}
	if err != nil {
		return false, fmt.Errorf("take pod %s off the network: %w", key, err)
	}
	return true, nil
}

// Remove undoes an ADD, however far the ADD came. The caller holds the
// attachment's lock.
func Remove(k *bridge.Kernel, key attachment.Key, a *attachment.Attachment) error {
	if err := Dismantle(k, key, a); err != nil {
		return err
	}
	return a.Release()
}

// Dismantle removes what the kernel has of an attachment. Addresses and record
// stay.
func Dismantle(k *bridge.Kernel, key attachment.Key, a *attachment.Attachment) error {
	ports, err := closePorts(a)
	if ports != nil {
		// The socket is closed last. After a deletion, closing it waits for the same
		// RCU grace period as deleting the devices does, so there is one wait instead
		// of two.
		defer ports.Close()
	}
	return errors.Join(err, k.Remove(key.Devices()...))
}

// closePorts closes the host ports in the attachment's record. If the record can't
// be read, closePorts closes all host ports that lead to the attachment's
// addresses. The caller closes the Kernel, which is nil if there was nothing to
// do.
func closePorts(a *attachment.Attachment) (*hostport.Kernel, error) {
	r, found, err := a.Record()
	if !found && err == nil && a.Fresh() {
		return nil, nil // an ADD that failed early: ports come after the record
	}
	var mappings []hostport.Mapping
	if err == nil {
		mappings, err = hostport.Parse(r.HostPorts)
	}
	if found && err == nil {
		if len(mappings) == 0 {
			return nil, nil
		}
		return withPorts(func(k *hostport.Kernel) error {
			return k.Delete(hostport.Pod{Bridge: r.Bridge, Addresses: r.Addresses, Mappings: mappings})
		})
	}
	held, err := a.Held()
	if err != nil || len(held) == 0 {
		return nil, err
	}
	return withPorts(func(k *hostport.Kernel) error { return k.DeleteAddresses(held) })
}

// EndUse closes all host ports that lead to an address whose record is lost, so
// that attachment.Store.FreeLost can release the address. If a pod still has the
// address, EndUse does nothing and returns false.
func EndUse(b *bridge.Kernel, key attachment.Key, addr netip.Addr) (bool, error) {
	if there, err := b.Exists(key.HostName()); there || err != nil {
		return false, err
	}
	err := closePortsTo(addr)
	return err == nil, err
}

// closePortsTo closes all host ports that lead to an address.
func closePortsTo(addr netip.Addr) error {
	k, err := withPorts(func(k *hostport.Kernel) error { return k.DeleteAddresses([]netip.Addr{addr}) })
	if k != nil {
		k.Close()
	}
	return err
}

// withPorts does nothing on a kernel without nf_tables, which has no host ports.
func withPorts(do func(*hostport.Kernel) error) (*hostport.Kernel, error) {
	k, err := hostport.Open()
	if errors.Is(err, hostport.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return k, do(k)
}

// RemoveHostPorts closes all host ports and names what it removed.
func (h *Host) RemoveHostPorts() ([]string, error) {
	changes, err := h.ports.Remove()
	if len(changes) == 0 {
		return nil, err
	}
	return []string{"table inet " + hostport.TableName}, err
}
