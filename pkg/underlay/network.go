package underlay

import (
	"net/netip"
	"slices"
	"strings"
)

// Network is what a choice depends on.
type Network struct {
	Links []Link // by index
	// Defaults are the default routes of the main table.
	Defaults []DefaultRoute
	// Reached is the index of the interface that leads to what is asked for
	// by address, 0 if none does.
	Reached int
}

// Link is an interface.
type Link struct {
	Name     string
	Index    int
	MTU      int
	Up       bool
	Loopback bool
	// Addrs are IPv4 first, and in each family those first that are there to
	// stay; else in the kernel's order.
	Addrs []netip.Addr
	// Passing are those of them that may not stay its own, see passing.
	Passing []netip.Addr
	// Parent is the index of the interface that this one is on, as a VLAN is;
	// Master that of the bridge or bond that it is a port of. 0: none.
	Parent, Master int
}

// DefaultRoute is one way to everywhere.
type DefaultRoute struct {
	// Family is 0.0.0.0 or ::.
	Family netip.Addr
	Metric uint32
	Index  int
}

func (n Network) find(is func(Link) bool) (Link, bool) {
	if i := slices.IndexFunc(n.Links, is); i >= 0 {
		return n.Links[i], true
	}
	return Link{}, false
}

func (n Network) holder(a netip.Addr) (Link, bool) {
	return n.find(func(l Link) bool { return slices.Contains(l.Addrs, a) })
}

// carriers are the names of an interface and of those that carry it, directly
// or not: the parent of a VLAN, the ports of a bond or bridge.
func (n Network) carriers(index int) []string {
	var names []string
	found := map[int]bool{}
	for next := []int{index}; len(next) > 0; next = next[1:] {
		at := next[0]
		if found[at] {
			continue
		}
		found[at] = true
		for _, l := range n.Links {
			switch {
			case l.Index == at:
				names = append(names, l.Name)
				next = append(next, l.Parent)
			case l.Master == at && at != 0:
				next = append(next, l.Index)
			}
		}
	}
	return names
}

// describe lists the interfaces that have an address, such as
// "lo 127.0.0.1 ::1, eth0 192.168.77.1 (down)". Those without are the ports of
// the pods, by the hundred, and the like.
func (n Network) describe() string {
	var parts []string
	for _, l := range n.Links {
		if len(l.Addrs) == 0 && !n.hasDefault(l.Index) {
			continue
		}
		part := l.Name
		for _, a := range l.Addrs {
			part += " " + a.String()
		}
		if !l.Up {
			part += " (down)"
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return "no interfaces with addresses"
	}
	return strings.Join(parts, ", ")
}

func (n Network) hasDefault(index int) bool {
	return slices.ContainsFunc(n.Defaults, func(d DefaultRoute) bool { return d.Index == index })
}
