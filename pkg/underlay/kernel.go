package underlay

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// Finder finds the underlay. It reads the kernel once for each Spec, and again
// only after Forget. Find is for one goroutine at a time, Forget for any.
type Finder struct {
	conn    *rtnl.Conn
	changes atomic.Uint64 // how often the kernel's state may have changed
	found   map[string]Underlay
	read    uint64 // changes when found was read
}

// NewFinder returns a finder for the network namespace of conn.
func NewFinder(conn *rtnl.Conn) *Finder { return &Finder{conn: conn, found: map[string]Underlay{}} }

// Forget makes Find read the kernel again.
func (f *Finder) Forget() { f.changes.Add(1) }

// Find returns the underlay for a Spec. The error wraps ErrNotFound if the host has
// none. After an error, the next Find reads the kernel again.
func (f *Finder) Find(spec Spec) (Underlay, error) {
	// The count is read before the kernel, so a change during the read makes the next
	// Find read again.
	if now := f.changes.Load(); now != f.read {
		f.found, f.read = map[string]Underlay{}, now
	}
	key := fmt.Sprint(spec)
	if u, ok := f.found[key]; ok {
		return u, nil
	}
	u, err := Find(f.conn, spec)
	if err == nil {
		f.found[key] = u
	}
	return u, err
}

// Find reads the network namespace of conn and chooses.
func Find(conn *rtnl.Conn, spec Spec) (Underlay, error) {
	network, err := readOnce(conn, spec)
	if err != nil {
		return Underlay{}, fmt.Errorf("find the underlay: %w", err)
	}
	u, err := Choose(spec, network)
	if err != nil {
		return Underlay{}, err
	}
	u.Drivers = readDrivers(conn, network.carriers(u.Index))
	if !spec.OnLink {
		return u, nil
	}
	u.OnLink, err = readOnLink(conn, u.Index)
	if err != nil {
		return Underlay{}, fmt.Errorf("find what is on the link of underlay %s: %w", u.Name, err)
	}
	return u, nil
}

func readOnce(conn *rtnl.Conn, spec Spec) (Network, error) {
	var n Network
	if err := readLinks(conn, &n); err != nil {
		return n, err
	}
	if spec.Want.Reaches.IsValid() {
		route, err := conn.RouteTo(spec.Want.Reaches)
		if unreachable(err) {
			return n, nil
		}
		n.Reached = route.Index
		return n, err
	}
	if !spec.needsDefaults(n) {
		return n, nil
	}
	return n, readDefaults(conn, &n)
}

// unreachable reports whether the kernel has no route, or one that forbids sending.
func unreachable(err error) bool {
	for _, no := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

func readLinks(conn *rtnl.Conn, n *Network) error {
	err := conn.EachLink("", func(l rtnl.LinkEntry) {
		a := l.Attrs()
		link := Link{
			Name: a.Name, Index: a.Index, Kind: l.Type(), MTU: a.MTU, Parent: a.ParentIndex, Master: a.MasterIndex,
			Up: a.RawFlags&unix.IFF_UP != 0, Running: a.RawFlags&unix.IFF_RUNNING != 0, Loopback: a.Flags&net.FlagLoopback != 0,
		}
		if a.NetNsID >= 0 {
			link.Parent = 0 // the parent is in another network namespace
		}
		n.Links = append(n.Links, link)
	})
	if err != nil {
		return err
	}
	slices.SortFunc(n.Links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	addrs := make([][]rtnl.AddrEntry, len(n.Links))
	err = conn.EachAddr(0, func(a rtnl.AddrEntry) {
		i, ok := slices.BinarySearchFunc(n.Links, a.Index, func(l Link, index int) int { return cmp.Compare(l.Index, index) })
		if ok {
			addrs[i] = append(addrs[i], a)
		}
	})
	for i := range n.Links {
		slices.SortStableFunc(addrs[i], byPermanence)
		for _, a := range addrs[i] {
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				continue // another host has the address
			}
			n.Links[i].add(a)
		}
	}
	return err
}

func (l *Link) add(e rtnl.AddrEntry) {
	a := e.Prefix.Addr()
	l.Addrs = append(l.Addrs, a)
	if transience(e) > 0 {
		l.Transient = append(l.Transient, a)
	}
	if transience(e) == leaving {
		l.Leaving = append(l.Leaving, a)
	}
	if network := e.Prefix.Masked(); !network.IsSingleIP() && global(a) && !slices.Contains(l.Networks, network) {
		l.Networks = append(l.Networks, network)
	}
}

// leaving is the highest transience.
const leaving = 2

// byPermanence orders the addresses of an interface by family, and within a family by
// how long they are likely to stay. The kernel lists the newest IPv6 address first.
func byPermanence(a, b rtnl.AddrEntry) int {
	return cmp.Or(cmp.Compare(family.Of(a.Prefix.Addr()), family.Of(b.Prefix.Addr())), cmp.Compare(transience(a), transience(b)))
}

// transience is 0 for permanent addresses, and higher for addresses that are less
// likely to stay on the interface. Temporary
// addresses (RFC 8981) change every day, deprecated ones go soon, and a tentative one
// may turn out to be another host's. An address without a network often belongs to a
// service that moves between hosts (VRRP).
func transience(e rtnl.AddrEntry) int {
	ip := e.Prefix.Addr()
	switch {
	case e.Flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_TENTATIVE) != 0, ip.Is6() && e.Flags&unix.IFA_F_TEMPORARY != 0: // the flag means "secondary" for IPv4
		return leaving
	case e.Prefix.Bits() == ip.BitLen():
		return 1
	}
	return 0
}

func readDefaults(conn *rtnl.Conn, n *Network) error {
	for _, f := range family.All() {
		err := conn.EachRoute(f, 0, func(r rtnl.RouteEntry) {
			if r.Table != unix.RT_TABLE_MAIN || r.Type != unix.RTN_UNICAST || r.Dst.Bits() != 0 {
				return
			}
			for _, index := range append(r.Indexes, r.Index) {
				if index != 0 {
					n.Defaults = append(n.Defaults, DefaultRoute{Family: f, Metric: r.Metric, Index: index})
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readOnLink takes the networks from the routes and not from the addresses: a program
// that assigns an address may leave the route to the kernel, make its own
// (NetworkManager), or make none because only the router is on the link (router
// advertisements without the flag L, many clouds).
func readOnLink(conn *rtnl.Conn, index int) ([]netip.Prefix, error) {
	var on []netip.Prefix
	for _, f := range family.All() {
		err := conn.EachRoute(f, index, func(r rtnl.RouteEntry) {
			plain := r.Table == unix.RT_TABLE_MAIN && r.Type == unix.RTN_UNICAST && !r.Apart
			if plain && !r.Via.IsValid() && r.Dst.Bits() > 0 && global(r.Dst.Addr()) {
				on = append(on, r.Dst)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return on, nil
}

// readDrivers leaves out interfaces that have gone meanwhile or have no driver.
func readDrivers(conn *rtnl.Conn, names []string) []string {
	var drivers []string
	for _, name := range names {
		if driver, err := conn.Driver(name); err == nil {
			drivers = append(drivers, driver)
		}
	}
	slices.Sort(drivers)
	return slices.Compact(drivers)
}
