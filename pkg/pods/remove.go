package pods

import (
	"errors"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
)

// Remove undoes all that an ADD does, however far it came. The attachment is
// locked by the caller.
func Remove(k *bridge.Kernel, key attachment.Key, a *attachment.Attachment) error {
	if err := Dismantle(k, key, a); err != nil {
		return err
	}
	return a.Release()
}

// Dismantle removes what the kernel has of an attachment, and leaves its
// addresses and its file.
func Dismantle(k *bridge.Kernel, key attachment.Key, a *attachment.Attachment) error {
	ports, err := closePorts(a)
	if ports != nil {
		// Last: after a deletion the kernel lets the socket's closing wait for
		// what the deletion of the devices waits for too.
		defer ports.Close()
	}
	return errors.Join(err, k.Remove(key.Devices()...))
}

// closePorts closes the host ports that the attachment's record tells. Where
// that can't be read, or is lost, all ports that lead to its addresses are
// closed. The Kernel is nil where there was nothing to do; else the caller
// closes it.
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

// Disuse closes all host ports that lead to an address whose attachment is lost,
// and tells whether it did: one that a pod has still is left alone (see
// attachment.Store.FreeLost).
func Disuse(b *bridge.Kernel, key attachment.Key, addr netip.Addr) (bool, error) {
	if there, err := b.Exists(key.HostName()); there || err != nil {
		return false, err
	}
	k, err := withPorts(func(k *hostport.Kernel) error { return k.DeleteAddresses([]netip.Addr{addr}) })
	if k != nil {
		k.Close()
	}
	return err == nil, err
}

// withPorts does nothing on a kernel that has no host ports.
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
