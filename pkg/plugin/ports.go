package plugin

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/pkg/hostport"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

// openPorts leads ports of the host to a pod that is connected.
func (c *call) openPorts(n network, addrs []netip.Addr, mappings []hostport.Mapping) error {
	if len(mappings) == 0 {
		return nil
	}
	k, err := hostport.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	err = k.Add(hostport.Pod{Bridge: n.bridge.Name, Addresses: addrs, Mappings: mappings})
	var taken *hostport.TakenError
	switch {
	case !errors.As(err, &taken):
		return err
	case c.store.IsOf(taken.Holder.Pod, c.args.ContainerID):
		// A runtime asks each of a container's networks for the same ports: the
		// first one has them.
		return nil
	default:
		return fmt.Errorf("%w, the address of %s: choose another port, or delete that pod", err, c.store.Holder(taken.Holder.Pod))
	}
}

// closePorts ends what openPorts did, as the attachment's record tells. Where
// that can't be read, all ports that lead to its addresses are closed. The
// Kernel is nil where there was nothing to do; else the caller closes it.
func (c *call) closePorts(a *ipam.Attachment) (*hostport.Kernel, error) {
	r, found, err := a.Record()
	if !found && err == nil {
		return nil, nil // ports come after the record
	}
	var mappings []hostport.Mapping
	if err == nil {
		mappings, err = hostport.Parse(r.HostPorts)
	}
	if err == nil && len(mappings) == 0 {
		return nil, nil
	}
	k, openErr := hostport.Open()
	if openErr != nil {
		return nil, openErr
	}
	if err == nil {
		return k, k.Delete(hostport.Pod{Bridge: r.Bridge, Addresses: r.Addresses, Mappings: mappings})
	}
	held, err := a.Held()
	if err != nil {
		return k, err
	}
	return k, k.DeleteAddresses(held)
}

// checkPorts compares the record's ports with the kernel.
func checkPorts(r ipam.Record) ([]string, error) {
	mappings, err := hostport.Parse(r.HostPorts)
	if err != nil || len(mappings) == 0 {
		return nil, err
	}
	k, err := hostport.Open()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	return k.Check(hostport.Pod{Bridge: r.Bridge, Addresses: r.Addresses, Mappings: mappings})
}
