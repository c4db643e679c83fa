package plugin

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/hostport"
)

// errLeftover is for a host port that this attachment has without a record of it.
var errLeftover = errors.New("left by an earlier ADD of the same attachment, whose record is lost")

// checkFamilies refuses a host port for addresses of a family that the pod doesn't
// have: nothing would answer there. Like portmap and Docker, 0.0.0.0 stands for the
// host's IPv4 addresses and :: for its IPv6 addresses.
func checkFamilies(mappings []hostport.Mapping, addrs []netip.Addr) error {
	for _, m := range mappings {
		if len(hostport.Elements([]hostport.Mapping{m}, addrs)) == 0 {
			return invalid("runtimeConfig.portMappings: host port %s is for %s alone, and the pod gets no such address: leave hostIP out, or give the network addresses of that family",
				m.Port(), family.Of(m.HostIP))
		}
	}
	return nil
}

// openPorts forwards ports of the host to the pod. The socket is nil if there is none
// yet.
func (c *call) openPorts(rules *nft.Conn, n settings, addrs []netip.Addr, mappings []hostport.Mapping) error {
	if len(mappings) == 0 {
		return nil
	}
	if rules == nil {
		var err error
		if rules, err = nft.Dial(); err != nil {
			return err
		}
		defer rules.Close()
	}
	err := hostport.On(rules).Add(hostport.Pod{Bridge: n.bridge.Name, Addresses: addrs, Mappings: mappings, Sibling: c.isSiblingAddress})
	var taken *hostport.TakenError
	switch {
	case !errors.As(err, &taken):
		return err
	case c.store.Has(c.key, taken.Holder.Pod):
		return fmt.Errorf("%w: %w", errLeftover, err)
	default:
		return fmt.Errorf("%w, the address of %s: choose another port, or delete that pod", err, c.store.Holder(taken.Holder.Pod))
	}
}

// isSiblingAddress tells whether an address is the same container's address on
// another network. A runtime asks each of a container's networks for the same
// ports, and the first network gets them.
func (c *call) isSiblingAddress(addr netip.Addr) bool {
	return c.store.BelongsToSibling(attachment.Owner{ContainerID: c.containerID, IfName: c.ifName}, addr)
}

// checkPorts compares the record's ports with the kernel.
func (c *call) checkPorts(r attachment.Record) ([]string, error) {
	mappings, err := hostport.Parse(r.HostPorts)
	if err != nil || len(mappings) == 0 {
		return nil, err
	}
	k, err := hostport.Open()
	if err != nil {
		return nil, err
	}
	defer k.Close()
	return k.Check(hostport.Pod{Bridge: r.Bridge, Addresses: r.Addresses, Mappings: mappings, Sibling: c.isSiblingAddress})
}
