package underlay

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// Find reads the network namespace of conn and chooses.
func Find(conn *rtnl.Conn, spec Spec) (Underlay, error) {
	network, err := read(conn, spec)
	if err != nil {
		return Underlay{}, fmt.Errorf("find the underlay: %w", err)
	}
	return Choose(spec, network)
}

// readAttempts is how often a list is asked for again that changed meanwhile.
const readAttempts = 10

func read(conn *rtnl.Conn, spec Spec) (Network, error) {
	var n Network
	var err error
	for range readAttempts {
		n, err = readOnce(conn, spec)
		if !errors.Is(err, rtnl.ErrInterrupted) {
			break
		}
	}
	return n, err
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
	if spec.Want.Interface != "" || spec.Want.Address.IsValid() {
		return n, nil
	}
	return n, readDefaults(conn, &n)
}

// unreachable says that the kernel has no route, or one that forbids sending.
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
		n.Links = append(n.Links, Link{
			Name: a.Name, Index: a.Index, MTU: a.MTU,
			Up: a.RawFlags&unix.IFF_UP != 0, Loopback: a.Flags&net.FlagLoopback != 0,
		})
	})
	if err != nil {
		return err
	}
	slices.SortFunc(n.Links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	return conn.EachAddr(0, func(a rtnl.AddrEntry) {
		i, ok := slices.BinarySearchFunc(n.Links, a.Index, func(l Link, index int) int { return cmp.Compare(l.Index, index) })
		if ok {
			n.Links[i].Addrs = append(n.Links[i].Addrs, a.Prefix.Addr())
		}
	})
}

func readDefaults(conn *rtnl.Conn, n *Network) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := conn.EachRoute(family, 0, func(r rtnl.RouteEntry) {
			if r.Table != unix.RT_TABLE_MAIN || r.Type != unix.RTN_UNICAST || r.Dst.Bits() != 0 {
				return
			}
			for _, index := range append(r.Indexes, r.Index) {
				if index != 0 {
					n.Defaults = append(n.Defaults, DefaultRoute{Family: r.Dst.Addr(), Metric: r.Metric, Index: index})
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
