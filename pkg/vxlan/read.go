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
	var s State
	var err error
	for range readAttempts {
		s, err = k.read(name)
		// A device that goes while it is read is as good as changed.
		if !errors.Is(err, rtnl.ErrInterrupted) && !errors.Is(err, unix.ENODEV) {
			break
		}
	}
	if err != nil {
		return State{}, fmt.Errorf("read vxlan device %q: %w", name, err)
	}
	k.peers = len(s.Routes)
	return s, nil
}

func (k *Kernel) read(name string) (State, error) {
	s := newState(k.peers)
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
		if s.Device, err = k.otherKind(name); err != nil {
			return s, err
		}
		return s, k.readRoutes(&s)
	}
	s.Device.TxChecksum, err = k.conn.TxChecksum(name)
	if err != nil {
		return s, err
	}
	return s, k.readEntries(&s)
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

// readEntries lists what is on the device, and our routes elsewhere.
func (k *Kernel) readEntries(s *State) error {
	if err := k.readRoutes(s); err != nil {
		return err
	}
	index := s.Device.Index
	if err := k.conn.EachAddr(index, s.addAddr); err != nil {
		return err
	}
	if err := k.conn.EachNeighbor(unix.AF_UNSPEC, index, s.addNeighbor); err != nil {
		return err
	}
	return k.conn.EachNeighbor(unix.AF_BRIDGE, index, s.addForward)
}

// readRoutes lists the routes of all interfaces: ours may be on one that was the
// underlay once.
func (k *Kernel) readRoutes(s *State) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := k.conn.EachRoute(family, 0, s.addRoute); err != nil {
			return err
		}
	}
	return nil
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
	route := Route{Via: r.Via, Over: over}
	if !r.Onlink || !ours(r.Dst, r.Protocol) || r.More != "" {
		route.Odd = oddRoute(r)
	}
	s.Routes[r.Dst] = route
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

// replaceable says that a route is in the place where Sync puts one to the
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
	const resolving = unix.NUD_INCOMPLETE | unix.NUD_FAILED | unix.NUD_NONE
	if n.IP.IsMulticast() || n.State&^resolving == 0 {
		return
	}
	if n.Family != unix.AF_INET && n.Family != unix.AF_INET6 {
		return
	}
	neighbor := Neighbor{MAC: macOf(n.MAC)}
	if n.State != unix.NUD_PERMANENT || n.More != "" {
		neighbor.Odd = oddNeighbor("neighbour", n)
	}
	s.Neighbors[n.IP] = neighbor
}

// addForward takes an entry of a unicast MAC address for one that is replaced:
// it has just one host. Others can have several.
func (s *State) addForward(n rtnl.NeighborEntry) {
	mac := macOf(n.MAC)
	unicast := mac != MAC{} && mac[0]&1 == 0
	if !unicast || !n.IP.IsValid() {
		s.Foreign = append(s.Foreign, *oddNeighbor("forwarding entry", n))
		return
	}
	forward := Forward{Host: n.IP}
	if n.State != unix.NUD_PERMANENT || n.More != "" {
		forward.Odd = oddNeighbor("forwarding entry", n)
	}
	s.Forwards[mac] = forward
}

func oddNeighbor(what string, n rtnl.NeighborEntry) *Odd {
	text := fmt.Sprintf("%s %s of MAC address %s, state %#x%s", what, orNone(n.IP), n.MAC, n.State, n.More)
	return odd(text, rtnl.DumpedNeighbor, n.Raw)
}

// odd copies what the kernel listed out of the receive buffer.
func odd(text string, kind rtnl.Dumped, raw []byte) *Odd {
	return &Odd{Text: text, Kind: kind, Raw: string(raw)}
}
