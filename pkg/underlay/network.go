package underlay

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/family"
)

// Network is the state of a host that a choice depends on.
type Network struct {
	Links []Link // by index
	// Defaults are the default routes of the main table.
	Defaults []DefaultRoute
	// Reached is the index of the interface that leads to Spec.Want.Reaches; 0: none.
	Reached int
}

// Link is an interface.
type Link struct {
	Name     string
	Index    int
	Kind     string // such as "bridge"; hardware has none
	MTU      int
	Up       bool
	Running  bool // has a carrier
	Loopback bool
	// Addrs has IPv4 addresses first, in each family permanent addresses first, and
	// otherwise the kernel's order.
	Addrs []netip.Addr
	// Transient are the addresses of Addrs that may move to another host, see
	// transience.
	Transient []netip.Addr
	// Leaving are those of Transient that the host is about to lose, or may never get.
	Leaving []netip.Addr
	// Networks are the addresses' networks, without those of a single address.
	Networks []netip.Prefix
	// Parent is the index of the interface below a VLAN; 0: none.
	Parent int
	// Master is the index of the bridge or bond of a port; 0: none.
	Master int
}

// DefaultRoute is a route to 0.0.0.0/0 or ::/0.
type DefaultRoute struct {
	Family family.Family
	Metric uint32
	Index  int // of the interface
}

func (n Network) find(is func(Link) bool) (Link, bool) {
	if i := slices.IndexFunc(n.Links, is); i >= 0 {
		return n.Links[i], true
	}
	return Link{}, false
}

func (n Network) holders(a netip.Addr) []Link {
	return slices.DeleteFunc(slices.Clone(n.Links), func(l Link) bool { return !slices.Contains(l.Addrs, a) })
}

// isInternal reports whether an interface reaches no other host by itself. Programs
// put addresses there that the whole host has: anycast and load balancers' addresses
// on lo, those of Services on a dummy (kube-ipvs0), a router's own.
func (l Link) isInternal() bool { return l.Loopback || l.Kind == "dummy" || l.Kind == "vrf" }

// isAside reports whether an interface is hardly the way to other hosts: it is
// internal, a bridge that only containers are attached to, or a port of a bridge or
// bond, which takes the packets that its port receives.
func (n Network) isAside(l Link) bool {
	master, has := n.find(func(m Link) bool { return l.Master != 0 && m.Index == l.Master })
	return l.isInternal() || has && master.Kind != "vrf" || l.Kind == "bridge" && n.onlyContainers(l)
}

func (n Network) onlyContainers(bridge Link) bool {
	return !slices.ContainsFunc(n.Links, func(l Link) bool { return l.Master == bridge.Index && l.Kind != "veth" && l.Kind != "tun" })
}

// carriers returns the names of an interface and of those that carry it, directly or
// not: the parent of a VLAN, the ports of a bond or bridge.
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
// "lo 127.0.0.1 ::1, eth0 192.168.77.1 (down)". Interfaces without an address are
// mostly pods' ports, of which there may be hundreds.
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

func (n Network) hasDefaultOf(f family.Family, index int) bool {
	return slices.ContainsFunc(n.Defaults, func(d DefaultRoute) bool { return d.Index == index && d.Family == f })
}
