package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// readAttempts is how often a list is asked for again when the kernel changed
// it meanwhile. Routes of the whole host count, so a busy one needs some.
const readAttempts = 10

// Read returns the actual state of the device of that name, with everything on
// it but what the kernel itself puts there.
func (k *Kernel) Read(name string) (State, error) {
	s, _, err := k.readAll(name)
	return s, err
}

// readAll also tells of rivals, see readRoutes.
func (k *Kernel) readAll(name string) (s State, rivals bool, err error) {
	s, err = k.readDevice(name)
	if err != nil {
		return State{}, false, err
	}
	return k.withEntries(s)
}

// readDevice reads the device itself and its addresses, and finds strays.
func (k *Kernel) readDevice(name string) (State, error) {
	var s State
	err := retry(name, func() (err error) {
		s, err = k.device(name)
		return err
	})
	return s, err
}

// withEntries adds what is on the device that was read, and our routes
// elsewhere.
func (k *Kernel) withEntries(device State) (s State, rivals bool, err error) {
	err = retry(device.Device.Name, func() (err error) {
		s = newState(k.peers)
		s.Device, s.Addresses, s.Strays = device.Device, device.Addresses, device.Strays
		rivals, err = k.readEntries(&s)
		return err
	})
	k.peers = len(s.Routes)
	return s, rivals, err
}

// retry has something read again that changed meanwhile.
func retry(name string, read func() error) error {
	var err error
	for range readAttempts {
		err = read()
		// A device that goes while it is read is as good as changed.
		if !errors.Is(err, rtnl.ErrInterrupted) && !errors.Is(err, unix.ENODEV) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("read vxlan device %q: %w", name, err)
	}
	return nil
}

func (k *Kernel) device(name string) (State, error) {
	s := newState(0)
	err := k.eachDevice(func(d Device) {
		switch {
		case d.Name == name:
			s.Device = d
		case d.Alias == Alias:
			s.Strays = append(s.Strays, d.Name)
		}
	})
	if err != nil {
		return s, err
	}
	slices.Sort(s.Strays)
	if s.Device.Name == "" {
		s.Device, err = k.otherKind(name)
		return s, err
	}
	s.Device.TxChecksum, err = k.conn.TxChecksum(name)
	if err != nil {
		return s, err
	}
	return s, k.conn.EachAddr(s.Device.Index, s.addAddr)
}

// eachDevice lists the VXLAN devices.
func (k *Kernel) eachDevice(each func(Device)) error {
	return k.conn.EachLink(kindVXLAN, func(l rtnl.LinkEntry) {
		a := l.Attrs()
		each(Device{
			Name: a.Name, Tunnel: tunnelOf(l.VXLANTunnel()), MTU: a.MTU, MAC: macOf(a.HardwareAddr),
			Up: a.RawFlags&unix.IFF_UP != 0, Alias: a.Alias, AutoAddress: l.AutoAddress,
			Index: a.Index, Kind: kindVXLAN,
		})
	})
}

// otherKind looks for a device that has the name but is no VXLAN device.
func (k *Kernel) otherKind(name string) (Device, error) {
	link, err := k.conn.Link(name)
	if errors.Is(err, unix.ENODEV) {
		return Device{}, nil
	}
	if err != nil {
		return Device{}, err
	}
	if link.Kind == kindVXLAN {
		return Device{}, fmt.Errorf("device %q was made just now: %w", name, rtnl.ErrInterrupted)
	}
	return Device{Name: name, Kind: link.Kind, Index: link.Index}, nil
}

// readEntries lists what is on the device, if it is one, and our routes
// elsewhere.
func (k *Kernel) readEntries(s *State) (rivals bool, err error) {
	rivals, err = k.readRoutes(s)
	index := s.Device.Index
	if err != nil || s.Device.Kind != kindVXLAN {
		return rivals, err
	}
	if err := k.conn.EachNeighbor(unix.AF_UNSPEC, index, s.addNeighbor); err != nil {
		return rivals, err
	}
	return rivals, k.conn.EachNeighbor(unix.AF_BRIDGE, index, s.addForward)
}

// readRoutes lists the routes of all interfaces: ours may be on one that was the
// underlay once. A rival is another's route to a destination of ours, in the
// place that only one of them should have: the kernel replaces the first. It
// lists routes to one destination together.
func (k *Kernel) readRoutes(s *State) (rivals bool, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var other netip.Prefix // destination of the last route of others
		err := k.conn.EachRoute(family, 0, func(r rtnl.RouteEntry) {
			_, concerns := s.over(&r)
			if concerns {
				s.addRoute(r)
			} else if r.Table == unix.RT_TABLE_MAIN && r.Metric == defaultMetric(r.Dst) {
				other = r.Dst
			}
			if _, ours := s.Routes[r.Dst]; ours && other == r.Dst {
				rivals = true
			}
		})
		if err != nil {
			return false, err
		}
	}
	return rivals, nil
}

func (s *State) addAddr(a rtnl.AddrEntry) {
	var address Address
	if a.Peer.IsValid() {
		text := fmt.Sprintf("address %s peer %s", a.Prefix.Addr(), a.Peer)
		address.Odd = odd(text, rtnl.DumpedAddr, a.Raw)
	}
	s.Addresses[a.Prefix] = address
}

// addRoute leaves out what the kernel adds together with an address: local,
// multicast, anycast and connected routes, all of protocol kernel; and what
// others have on other interfaces.
func (s *State) addRoute(r rtnl.RouteEntry) {
	over, concerns := s.over(&r)
	if !concerns {
		return
	}
	_, twice := s.Routes[r.Dst]
	if twice || !replaceable(r) {
		s.Foreign = append(s.Foreign, *oddRoute(r))
		return
	}
	route, plain := plainRoute(&r, over)
	if !plain {
		route.Odd = oddRoute(r)
	}
	s.Routes[r.Dst] = route
}

// plainRoute says whether a route is of the kind that Desired makes.
func plainRoute(r *rtnl.RouteEntry, over int) (Route, bool) {
	return Route{Via: r.Via, Over: over}, replaceable(*r) && r.Onlink && ours(r.Dst, r.Protocol) && r.More == ""
}

// over says whether a route concerns us, and over which interface it leads, as
// in Route.
func (s *State) over(r *rtnl.RouteEntry) (index int, concerns bool) {
	switch {
	case r.Protocol == unix.RTPROT_KERNEL:
		return 0, false
	case s.Device.Kind == kindVXLAN && r.Uses(s.Device.Index):
		return 0, true
	}
	return r.Index, r.Table == unix.RT_TABLE_MAIN && ours(r.Dst, r.Protocol)
}

// replaceable says that a route is in the place where Keep puts one to the
// same destination, so that it is either right or replaced.
func replaceable(r rtnl.RouteEntry) bool {
	return r.Table == unix.RT_TABLE_MAIN && r.Type == unix.RTN_UNICAST && r.Metric == defaultMetric(r.Dst) && !r.Apart
}

// defaultMetric is what the kernel makes of a route without a metric: IPv6
// knows none without (IP6_RT_PRIO_USER).
func defaultMetric(dst netip.Prefix) uint32 {
	if dst.Addr().Is4() {
		return 0
	}
	return 1024
}

func oddRoute(r rtnl.RouteEntry) *Odd {
	text := fmt.Sprintf("route %s via %s table %d metric %d protocol %d%s",
		r.Dst, orNone(r.Via), r.Table, r.Metric, r.Protocol, r.More)
	if !r.Onlink {
		text += " not onlink"
	}
	return odd(text, rtnl.DumpedRoute, r.Raw)
}

// addNeighbor leaves out the kernel's own: entries of multicast addresses, and
// attempts to find out a MAC address, which have none and expire.
func (s *State) addNeighbor(n rtnl.NeighborEntry) {
	if n.IP.IsMulticast() || resolving(&n) {
		return
	}
	if n.Family != unix.AF_INET && n.Family != unix.AF_INET6 {
		return
	}
	neighbor := Neighbor{MAC: macOf(n.MAC)}
	if !plainNeighbor(&n) {
		neighbor.Odd = oddNeighbor("neighbour", n)
	}
	s.Neighbors[n.IP] = neighbor
}

// resolving says that the kernel is finding out a MAC address, or gave up.
func resolving(n *rtnl.NeighborEntry) bool {
	return n.State&^(unix.NUD_INCOMPLETE|unix.NUD_FAILED|unix.NUD_NONE) == 0
}

// plainNeighbor says whether a neighbour or forwarding entry is of the kind that
// Desired makes.
func plainNeighbor(n *rtnl.NeighborEntry) bool { return n.State == unix.NUD_PERMANENT && n.More == "" }

// addForward takes an entry of a unicast MAC address for one that is replaced:
// it has just one host. Others can have several.
func (s *State) addForward(n rtnl.NeighborEntry) {
	if !unicast(&n) {
		s.Foreign = append(s.Foreign, *oddNeighbor("forwarding entry", n))
		return
	}
	forward := Forward{Host: n.IP}
	if !plainNeighbor(&n) {
		forward.Odd = oddNeighbor("forwarding entry", n)
	}
	s.Forwards[macOf(n.MAC)] = forward
}

func unicast(n *rtnl.NeighborEntry) bool {
	mac := macOf(n.MAC)
	return mac != MAC{} && mac[0]&1 == 0 && n.IP.IsValid()
}

func oddNeighbor(what string, n rtnl.NeighborEntry) *Odd {
	text := fmt.Sprintf("%s %s of MAC address %s, state %#x%s", what, orNone(n.IP), n.MAC, n.State, n.More)
	return odd(text, rtnl.DumpedNeighbor, n.Raw)
}

// odd copies what the kernel listed out of the receive buffer.
func odd(text string, kind rtnl.Dumped, raw []byte) *Odd {
	return &Odd{Text: text, Kind: kind, Raw: string(raw)}
}
