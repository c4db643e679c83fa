package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// readAttempts bounds how often the device is read while it comes and goes.
const readAttempts = 10

// read returns the actual state of the device with the desired name: the device
// and the entries on it, except those that the kernel itself makes.
func (k *Kernel) read(want Device) (State, error) {
	s, err := k.readDevice(want)
	if err != nil {
		return State{}, err
	}
	return k.withEntries(s)
}

// readDevice reads the device with the desired name and its addresses, and finds
// devices that have the desired alias and another name.
func (k *Kernel) readDevice(want Device) (State, error) {
	var s State
	err := retry(want.Name, func() (err error) {
		s, err = k.device(want)
		return err
	})
	return s, err
}

// withEntries adds what is on the device that was read, and our routes
// elsewhere.
func (k *Kernel) withEntries(device State) (s State, err error) {
	err = retry(device.Device.Name, func() error {
		s = newState(k.peers)
		s.Device, s.Addresses, s.Renamed = device.Device, device.Addresses, device.Renamed
		return k.readEntries(&s)
	})
	k.peers = len(s.Routes)
	return s, err
}

// retry reads again if the device comes or goes meanwhile.
func retry(name string, read func() error) error {
	err := read()
	for n := 1; n < readAttempts && (errors.Is(err, errJustCreated) || errors.Is(err, unix.ENODEV)); n++ {
		err = read()
	}
	if err != nil {
		return fmt.Errorf("read vxlan device %q: %w", name, err)
	}
	return nil
}

// errJustCreated says that somebody created the device during the reading.
var errJustCreated = errors.New("the device was created just now")

func (k *Kernel) device(want Device) (State, error) {
	s := newState(0)
	err := k.eachDevice(func(d Device) {
		switch {
		case d.Name == want.Name:
			s.Device = d
		case d.Alias == want.Alias:
			s.Renamed = append(s.Renamed, d.Name)
		}
	})
	if err != nil {
		return s, err
	}
	slices.Sort(s.Renamed)
	if s.Device.Name == "" {
		s.Device, err = k.otherKind(want.Name)
		return s, err
	}
	s.Device.TxChecksum, err = k.conn.TxChecksum(want.Name)
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
			Name: a.Name, Tunnel: l.Tunnel(), MTU: a.MTU, MAC: macOf(a.HardwareAddr),
			Up: a.RawFlags&unix.IFF_UP != 0, Alias: a.Alias, AutoAddress: l.AutoAddress,
			Master: a.MasterIndex, ProtoDown: l.ProtoDown,
			NoNeighbors: a.RawFlags&unix.IFF_NOARP != 0 || a.RawFlags&unix.IFF_MULTICAST == 0,
			Index:       a.Index, Kind: kindVXLAN, XDP: l.XDP,
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
		return Device{}, errJustCreated
	}
	return Device{Name: name, Kind: link.Kind, Index: link.Index}, nil
}

// readEntries lists what is on the device, if it is a VXLAN device, and our
// routes elsewhere.
func (k *Kernel) readEntries(s *State) error {
	// All interfaces, because our routes may use one that was the underlay before.
	for _, f := range family.All() {
		if err := k.conn.EachRoute(f, 0, s.addRoute); err != nil {
			return err
		}
	}
	if s.Device.Kind != kindVXLAN {
		return nil
	}
	if err := k.conn.EachNeighbor(unix.AF_UNSPEC, s.Device.Index, s.addNeighbor); err != nil {
		return err
	}
	return k.conn.EachNeighbor(unix.AF_BRIDGE, s.Device.Index, s.addFDB)
}

func (s *State) addAddr(a rtnl.AddrEntry) {
	var address Address
	if a.Peer.IsValid() {
		text := fmt.Sprintf("address %s peer %s", a.Prefix.Addr(), a.Peer)
		address.Unexpected = unexpected(text, rtnl.DumpedAddr, a.Raw)
	}
	s.Addresses[a.Prefix] = address
}

// addRoute ignores the routes that the kernel adds together with an address
// (local, multicast, anycast and connected routes, all of protocol kernel), and
// other programs' routes on other interfaces.
func (s *State) addRoute(r rtnl.RouteEntry) {
	over, concerns := s.concerns(&r)
	if !concerns {
		return
	}
	_, twice := s.Routes[r.Dst]
	if twice || !replaceable(r) {
		s.Unmanaged = append(s.Unmanaged, *unexpectedRoute(r))
		return
	}
	route, plain := plainRoute(&r, over)
	if !plain {
		route.Unexpected = unexpectedRoute(r)
	}
	s.Routes[r.Dst] = route
}

// plainRoute reports whether Desired might have made a route.
func plainRoute(r *rtnl.RouteEntry, over int) (Route, bool) {
	return Route{Via: r.Via, Over: over}, replaceable(*r) && r.Onlink && ours(r.Dst, r.Protocol) && r.More == ""
}

// concerns reports whether a route uses the device or is one of ours over
// another interface. The first result is the index for Route.Over.
func (s *State) concerns(r *rtnl.RouteEntry) (over int, concerns bool) {
	switch {
	case r.Protocol == unix.RTPROT_KERNEL:
		return 0, false
	case s.Device.Kind == kindVXLAN && r.Uses(s.Device.Index):
		return 0, true
	}
	return r.Index, r.Table == unix.RT_TABLE_MAIN && ours(r.Dst, r.Protocol)
}

// replaceable reports whether the kernel would replace a route by one of ours to
// the same destination.
func replaceable(r rtnl.RouteEntry) bool {
	return r.Table == unix.RT_TABLE_MAIN && r.Type == unix.RTN_UNICAST && r.Metric == defaultMetric(r.Dst) && !r.Apart
}

// defaultMetric is the metric that the kernel gives a route without one. An IPv6
// route always has one (IP6_RT_PRIO_USER).
func defaultMetric(dst netip.Prefix) uint32 {
	if dst.Addr().Is4() {
		return 0
	}
	return 1024
}

func unexpectedRoute(r rtnl.RouteEntry) *Unexpected {
	text := fmt.Sprintf("route %s via %s table %d metric %d protocol %d%s",
		r.Dst, orNone(r.Via), r.Table, r.Metric, r.Protocol, r.More)
	if !r.Onlink {
		text += " not onlink"
	}
	return unexpected(text, rtnl.DumpedRoute, r.Raw)
}

// addNeighbor ignores the kernel's own entries: those of multicast addresses, and
// attempts to resolve an address, which have no MAC address and expire.
func (s *State) addNeighbor(n rtnl.NeighborEntry) {
	if n.IP.IsMulticast() || resolving(&n) {
		return
	}
	if n.Family != unix.AF_INET && n.Family != unix.AF_INET6 {
		return
	}
	neighbor := Neighbor{MAC: macOf(n.MAC)}
	if !plainNeighbor(&n) {
		neighbor.Unexpected = unexpectedNeighbor("neighbour", n)
	}
	s.Neighbors[n.IP] = neighbor
}

// resolving reports whether the kernel tries to resolve an address, or gave up.
func resolving(n *rtnl.NeighborEntry) bool {
	return n.State&^(unix.NUD_INCOMPLETE|unix.NUD_FAILED|unix.NUD_NONE) == 0
}

// plainNeighbor reports whether Desired might have made a neighbour or FDB entry.
func plainNeighbor(n *rtnl.NeighborEntry) bool { return n.State == unix.NUD_PERMANENT && n.More == "" }

// addFDB stores entries for unicast MAC addresses only. Such an entry has
// one host, which the kernel replaces. Entries for other MAC addresses can have
// several hosts, so they are unmanaged.
func (s *State) addFDB(n rtnl.NeighborEntry) {
	if !unicast(&n) {
		s.Unmanaged = append(s.Unmanaged, *unexpectedNeighbor("FDB entry", n))
		return
	}
	entry := FDBEntry{Host: n.IP}
	if !plainNeighbor(&n) {
		entry.Unexpected = unexpectedNeighbor("FDB entry", n)
	}
	s.FDB[macOf(n.MAC)] = entry
}

func unicast(n *rtnl.NeighborEntry) bool {
	mac := macOf(n.MAC)
	return mac != MAC{} && mac[0]&1 == 0 && n.IP.IsValid()
}

func unexpectedNeighbor(what string, n rtnl.NeighborEntry) *Unexpected {
	text := fmt.Sprintf("%s %s of MAC address %s, state %#x%s", what, orNone(n.IP), n.MAC, n.State, n.More)
	return unexpected(text, rtnl.DumpedNeighbor, n.Raw)
}

// unexpected copies what the kernel listed, which makes states comparable.
func unexpected(text string, kind rtnl.Dumped, raw []byte) *Unexpected {
	return &Unexpected{Text: text, Kind: kind, Raw: string(raw)}
}
