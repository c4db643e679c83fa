package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// errAddress says that the registry has a wrong address of this host.
var errAddress = errors.New("other hosts send to an address that this host doesn't have")

// misaddressed returns an error if the registry has an address of this host that no
// interface of the host has. Then the other hosts' packets reach nobody, or somebody
// else, unless the network translates the address.
func (d *daemon) misaddressed(u underlay.Underlay, own registry.Node) error {
	if _, itself := registry.As[registry.Announcer](d.registry); itself || own.NAT {
		return nil
	}
	i := slices.IndexFunc(own.Addresses, func(a netip.Addr) bool { return !d.hasAddress(a) })
	if i < 0 {
		return nil
	}
	return fmt.Errorf("%w: the registry says %s, the tunnel uses %s on %s: correct the address of node %q in the registry, or say there that it is translated (NAT)",
		errAddress, own.Addresses[i], u.Address, u.Name, own.Name)
}

// hasAddress reports whether an interface of this host has the address. If that can't
// be read, the host gets the benefit of the doubt.
func hasAddress(a netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(all, func(have net.Addr) bool {
		p, err := netip.ParsePrefix(have.String())
		return err == nil && p.Addr().Unmap() == a
	})
}

// ownTrouble returns those errors of a round that concern this host itself and that its
// administrator finds in the registry, or nil. Other hosts' problems are for the log: if
// each of thousands of hosts reported each, the registry would have nothing else to do.
func ownTrouble(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range joined.Unwrap() {
			errs = append(errs, ownTrouble(e))
		}
		return errors.Join(errs...)
	}
	if errors.Is(err, cnifiles.ErrShadowed) || errors.Is(err, errAddress) {
		return err
	}
	return nil
}
