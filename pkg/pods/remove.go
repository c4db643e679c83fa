package pods

import (
	"errors"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
)

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
		// Last: to close this socket after a deletion waits for the same thing in the
		// kernel as the deletion of the devices does. So there is one wait, not two.
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

// Disuse closes all host ports that lead to an address whose record is lost, so
// that the address can be freed (attachment.Store.FreeLost). It returns false, and
// does nothing, if a pod still has the address.
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
