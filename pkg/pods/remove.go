package pods

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/guard"
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
		errs = append(errs, RemoveLost(h.bridge, port))
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
	r, found, err := a.Record()
	if !found && err == nil && a.Fresh() {
		return k.Remove(key.Devices()...) // an ADD that failed early: all else comes after the record
	}
	rules, rulesErr := dialRules()
	if rules != nil {
		// The socket is closed last. After a deletion, closing it waits for the same
		// RCU grace period as deleting the devices does, so there is one wait instead
		// of two.
		defer rules.Close()
		rulesErr = errors.Join(closePorts(rules, a, r, found && err == nil), unguard(rules, key, r, found && err == nil))
	}
	return errors.Join(rulesErr, k.RemovePod(r.Bridge, r.Addresses, key.Devices()...))
}

// dialRules returns nil on a kernel without nf_tables, which has no rules of pods.
func dialRules() (*nft.Conn, error) {
	rules, err := nft.Dial()
	if errors.Is(err, nft.ErrUnsupported) {
		return nil, nil
	}
	return rules, err
}

// closePorts closes the host ports in the attachment's record. If the record isn't
// usable, closePorts closes all host ports that lead to the attachment's addresses.
func closePorts(rules *nft.Conn, a *attachment.Attachment, r attachment.Record, usable bool) error {
	k := hostport.On(rules)
	mappings, err := hostport.Parse(r.HostPorts)
	if usable && err == nil {
		return k.Delete(hostport.Pod{Bridge: r.Bridge, Addresses: r.Addresses, Mappings: mappings})
	}
	held, err := a.Held()
	if err != nil || len(held) == 0 {
		return err
	}
	return k.DeleteAddresses(held)
}

// unguard removes what the guard has of an attachment.
func unguard(rules *nft.Conn, key attachment.Key, r attachment.Record, usable bool) error {
	k := guard.On(rules)
	if pod, ok := Guarded(r); usable && ok {
		return k.Delete(pod)
	}
	return k.DeletePort(key.HostName())
}

// RemoveLost removes the devices of an attachment that has no record, and what the
// guard has of it.
func RemoveLost(k *bridge.Kernel, hostName string) error {
	rules, err := dialRules()
	if rules != nil {
		defer rules.Close()
		err = guard.On(rules).DeletePort(hostName)
	}
	return errors.Join(err, k.Remove(attachment.DevicesOf(hostName)...))
}

// EndUse closes all host ports that lead to an address whose record is lost, so
// that attachment.Store.FreeLost can release the address. If a pod still has the
// address, EndUse does nothing and returns false.
func EndUse(b *bridge.Kernel, key attachment.Key, addr netip.Addr) (bool, error) {
	if there, err := b.Exists(key.HostName()); there || err != nil {
		return false, err
	}
	rules, err := dialRules()
	if rules == nil {
		return err == nil, err
	}
	defer rules.Close()
	err = errors.Join(hostport.On(rules).DeleteAddresses([]netip.Addr{addr}), guard.On(rules).DeletePort(key.HostName()))
	return err == nil, err
}

// closePortsTo closes all host ports that lead to an address.
func closePortsTo(addr netip.Addr) error {
	rules, err := dialRules()
	if rules == nil {
		return err
	}
	defer rules.Close()
	return hostport.On(rules).DeleteAddresses([]netip.Addr{addr})
}

// RemoveHostPorts closes all host ports and names what it removed.
func (h *Host) RemoveHostPorts() ([]string, error) {
	changes, err := h.ports.Remove()
	if len(changes) == 0 {
		return nil, err
	}
	return []string{"table inet " + hostport.TableName}, err
}
