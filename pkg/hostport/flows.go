package hostport

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/pkg/conntrack"
)

// deleteFlowsToHost deletes the UDP flows to the host itself on the elements' ports,
// which began before the elements existed. It leaves alone flows that the host forwards
// to the same port of other hosts.
func deleteFlowsToHost(elements []Element) error {
	var flows []conntrack.UDP
	var local []netip.Addr
	for _, e := range elements {
		if e.Protocol != UDP {
			continue
		}
		addresses := []netip.Addr{e.HostIP}
		if !e.HostIP.IsValid() {
			var err error
			if local, err = localAddresses(local); err != nil {
				return err
			}
			addresses = local
		}
		for _, a := range addresses {
			if a.BitLen() == e.Pod.BitLen() {
				flows = append(flows, conntrack.UDP{To: netip.AddrPortFrom(a, e.HostPort), Answerer: netip.AddrPortFrom(a, 0)})
			}
		}
	}
	return conntrack.Delete(flows...)
}

// deleteFlowsToPods deletes the UDP flows that the elements led to their pods.
func deleteFlowsToPods(elements []Element) error {
	var flows []conntrack.UDP
	for _, e := range elements {
		if e.Protocol == UDP {
			flows = append(flows, conntrack.UDP{
				To: netip.AddrPortFrom(e.HostIP, e.HostPort), Answerer: netip.AddrPortFrom(e.Pod, e.ContainerPort),
			})
		}
	}
	return conntrack.Delete(flows...)
}

// localAddresses returns the addresses of the host. It reads them unless they are
// known.
func localAddresses(known []netip.Addr) ([]netip.Addr, error) {
	if known != nil {
		return known, nil
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of the host: %w", err)
	}
	for _, l := range list {
		if p, err := netip.ParsePrefix(l.String()); err == nil {
			known = append(known, p.Addr())
		}
	}
	return known, nil
}
