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
	case c.store.IsOf(taken.Holder.Pod, c.containerID):
		// A runtime asks each of a container's networks for the same ports: the
		// first one has them.
		return nil
	default:
		return fmt.Errorf("%w, the address of %s: choose another port, or delete that pod", err, c.store.Holder(taken.Holder.Pod))
	}
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
