package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// stack is a namespace and netlink in it.
type stack struct {
	*netlink.Handle
	ns *sandbox.Netns
}

func newStack(name string) (*stack, error) {
	ns, err := sandbox.CreateNetns(name)
	if err != nil {
		return nil, err
	}
	h, err := ns.Handle()
	if err != nil {
		return nil, errors.Join(err, ns.Delete())
	}
	return &stack{ns: ns, Handle: h}, nil
}

// Close deletes the namespace with all that is in it.
func (s *stack) Close() error {
	s.Handle.Close() // an open socket keeps a namespace alive
	return s.ns.Delete()
}

// addBridge makes a switch. Its address is fixed because a bridge otherwise
// takes its lowest port's: every host that comes or goes could change it, and
// the others would lose packets to it. Without snooping, IPv6 neighbours are
// found from the first packet on.
func (s *stack) addBridge(name string, mtu int) error {
	noSnooping := false
	bridge := &netlink.Bridge{
		LinkAttrs:         netlink.LinkAttrs{Name: name, MTU: mtu, HardwareAddr: net.HardwareAddr{0x02, 0, 0, 0, 0, 0xfe}},
		MulticastSnooping: &noSnooping,
	}
	if err := s.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add bridge %s: %w", name, err)
	}
	return s.up(name)
}

// cable is a veth pair between a port of a bridge and another namespace.
type cable struct {
	bridge, port string
	peer         *stack
	peerName     string
	mtu          int
}

func (s *stack) addCable(c cable) error {
	bridge, err := s.LinkByName(c.bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", c.bridge, err)
	}
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: c.port, MTU: c.mtu, MasterIndex: bridge.Attrs().Index},
		PeerName:      c.peerName,
		PeerNamespace: netlink.NsFd(c.peer.ns.FD()),
		PeerMTU:       uint32(c.mtu),
	}
	if err := s.LinkAdd(veth); err != nil {
		return fmt.Errorf("connect %s to %s: %w", c.peer.ns.Name(), c.bridge, err)
	}
	return errors.Join(s.up(c.port), c.peer.up(c.peerName))
}

func (s *stack) up(link string) error {
	return s.withLink(link, "set up", s.LinkSetUp)
}

func (s *stack) down(link string) error {
	return s.withLink(link, "set down", s.LinkSetDown)
}

// addAddrs gives a link addresses that are usable at once: duplicate address
// detection would hold IPv6 up for more than a second.
func (s *stack) addAddrs(link string, ps []netip.Prefix) error {
	return s.withLink(link, "add addresses to", func(l netlink.Link) error {
		var errs []error
		for _, p := range ps {
			errs = append(errs, s.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}))
		}
		return errors.Join(errs...)
	})
}

// addDefaultRoutes makes gateways the way out, one a family.
func (s *stack) addDefaultRoutes(link string, gateways []netip.Addr) error {
	return s.withLink(link, "add default routes to", func(l netlink.Link) error {
		var errs []error
		for _, gw := range gateways {
			errs = append(errs, s.RouteAdd(&netlink.Route{
				LinkIndex: l.Attrs().Index,
				Dst:       ipNet(netip.PrefixFrom(zero(gw), 0)),
				Gw:        gw.AsSlice(),
			}))
		}
		return errors.Join(errs...)
	})
}

// hasRoute reports whether there is a route to exactly dst.
func (s *stack) hasRoute(dst netip.Prefix) (bool, error) {
	family := netlink.FAMILY_V6
	if dst.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	routes, err := s.RouteListFiltered(family, &netlink.Route{Dst: ipNet(dst)}, netlink.RT_FILTER_DST)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return s.hasRoute(dst)
	}
	if err != nil {
		return false, fmt.Errorf("list routes to %s of %s: %w", dst, s.ns.Name(), err)
	}
	return len(routes) > 0, nil
}

func (s *stack) withLink(name, doing string, do func(netlink.Link) error) error {
	l, err := s.LinkByName(name)
	if err == nil {
		err = do(l)
	}
	if err != nil {
		return fmt.Errorf("%s %s of %s: %w", doing, name, s.ns.Name(), err)
	}
	return nil
}

func zero(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// deleteLink succeeds for a link that does not exist.
func (s *stack) deleteLink(name string) error {
	l, err := s.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = s.LinkDel(l)
	}
	if err != nil {
		return fmt.Errorf("delete %s of %s: %w", name, s.ns.Name(), err)
	}
	return nil
}
