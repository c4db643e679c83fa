package underlay

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/config"
)

// ErrNotFound says that no interface can carry the tunnel. Every error of Choose
// wraps it.
var ErrNotFound = errors.New("no usable underlay")

// Underlay is the interface that carries the tunnel's own packets.
type Underlay struct {
	Name  string // of the interface
	Index int
	MTU   int // bytes
	// Address is an address of the interface: the source of the tunnel's packets.
	// Its family is the tunnel's.
	Address netip.Addr
	// Addresses are Address and, if the interface has one, an address of the other
	// family. Other hosts reach this host by them.
	Addresses []netip.Addr
	// OnLink are the networks, of either family, that the host reaches over the
	// interface without a router, in the order of the kernel's routes.
	OnLink []netip.Prefix
	// Drivers are the drivers of the interface and of the interfaces that carry it,
	// such as the ports of a bond. Each name occurs once; they are sorted.
	Drivers []string
	// Networks are those of the interface's addresses.
	Networks []netip.Prefix
}

// Spec says which underlay is wanted.
type Spec struct {
	Want config.Underlay
	// Family is the family of the tunnel's own packets; zero: either.
	Family family.Family
	// NodeAddrs are this host's addresses in the registry, in order of preference.
	// Other hosts send to these addresses. So if an interface has one of them, that is
	// the best source address.
	NodeAddrs []netip.Addr
	// Ours are the names of the daemon's own devices. A tunnel must not run over
	// itself.
	Ours []string
	// Kept is what carries the tunnel now.
	Kept Kept
	// OnLink asks for Underlay.OnLink, which takes a list of all routes of the
	// interface.
	OnLink bool
}

// Choose returns the underlay of a host with these interfaces, addresses and routes.
func Choose(spec Spec, net Network) (Underlay, error) {
	u, err := choose(spec, net)
	if err != nil {
		return Underlay{}, fmt.Errorf("%w: %w; this host has %s", ErrNotFound, err, net.describe())
	}
	return u, nil
}

func choose(spec Spec, net Network) (Underlay, error) {
	want := spec.Want
	switch {
	case want.Interface != "":
		l, ok := net.find(func(l Link) bool { return l.Name == want.Interface })
		if !ok {
			return Underlay{}, fmt.Errorf("there is no interface %q: set underlay to one that exists", want.Interface)
		}
		return spec.on(net, l, spec.families())
	case want.Address.IsValid():
		l, ok := spec.best(net, want.Address)
		if !ok {
			return Underlay{}, fmt.Errorf("no interface has the address %s: set underlay to an address of this host", want.Address)
		}
		return spec.with(l, want.Address)
	case want.Reaches.IsValid():
		l, ok := net.find(func(l Link) bool { return l.Index == net.Reached })
		if !ok {
			return Underlay{}, fmt.Errorf("no route leads to %s: add one, or set underlay to an interface", want.Reaches)
		}
		return spec.on(net, l, []family.Family{family.Of(want.Reaches)})
	}
	return spec.auto(net)
}

// needsDefaults reports whether the choice needs the default routes. They take a
// list of all routes, with one route for each peer.
func (s Spec) needsDefaults(net Network) bool {
	if s.Want != (config.Underlay{}) {
		return false
	}
	for _, a := range s.addrs() {
		if holders := net.holders(a); len(holders) > 0 {
			return len(holders) > 1 || s.isAside(net, holders[0])
		}
	}
	return true
}

// addrs returns the host's addresses in the registry of the usable families.
func (s Spec) addrs() []netip.Addr {
	families := s.families()
	return slices.DeleteFunc(slices.Clone(s.NodeAddrs), func(a netip.Addr) bool { return !slices.Contains(families, family.Of(a)) })
}

// auto prefers an address that other hosts send to over what carries the tunnel now,
// and that over the interface of the default route.
func (s Spec) auto(net Network) (Underlay, error) {
	for _, a := range s.addrs() {
		if l, ok := s.best(net, a); ok {
			return s.held(net, l, a)
		}
		if err := s.away(net, a); err != nil {
			return Underlay{}, err
		}
	}
	if l, a, ok := s.kept(net); ok {
		return s.with(l, a)
	}
	return s.byDefaultRoute(net)
}

// held chooses for an address in the registry that interface l has, if l is the way to
// other hosts. If the whole host has the address, such as a router's, the tunnel runs
// over another interface from that address.
func (s Spec) held(net Network, l Link, a netip.Addr) (Underlay, error) {
	if !s.isAside(net, l) && s.usable(l) == nil {
		return s.with(l, a)
	}
	if l.isInternal() {
		if over, ok := s.carrier(net, a); ok {
			return s.with(over, a)
		}
	}
	if err := s.away(net, a); err != nil {
		return Underlay{}, err
	}
	return s.with(l, a)
}

// carrier returns the interface over which an address of the whole host is reached:
// the one that carries the tunnel now, else that of the default route.
func (s Spec) carrier(net Network, a netip.Addr) (Link, bool) {
	proper := func(l Link) bool { return s.usable(l) == nil && !s.isAside(net, l) }
	if l, ok := net.find(func(l Link) bool { return l.Name == s.Kept.Name }); ok && s.Kept.has(a) && proper(l) {
		return l, true
	}
	for _, d := range s.defaults(net, []family.Family{family.Of(a)}) {
		if l, ok := net.find(func(l Link) bool { return l.Index == d.Index }); ok && proper(l) {
			return l, true
		}
	}
	return Link{}, false
}

// defaults returns the default routes of the families, best first.
func (s Spec) defaults(net Network, families []family.Family) []DefaultRoute {
	defaults := slices.DeleteFunc(slices.Clone(net.Defaults), func(d DefaultRoute) bool { return !slices.Contains(families, d.Family) })
	slices.SortStableFunc(defaults, func(a, b DefaultRoute) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Index, b.Index))
	})
	return defaults
}

// byDefaultRoute chooses the first usable default route. A route is not usable if it
// leads through one of our own devices, or if its interface has no address of its
// family.
func (s Spec) byDefaultRoute(net Network) (Underlay, error) {
	var errs []error
	for _, d := range s.defaults(net, s.families()) {
		l, ok := net.find(func(l Link) bool { return l.Index == d.Index })
		if !ok {
			continue
		}
		u, err := s.on(net, l, []family.Family{d.Family})
		if err == nil {
			return u, nil
		}
		errs = append(errs, fmt.Errorf("the %s default route: %w", d.Family, err))
	}
	if len(errs) > 0 {
		return Underlay{}, join(errs)
	}
	return Underlay{}, fmt.Errorf("there is no %sdefault route, and no interface has an address by which the registry knows this host%s: set underlay to an interface or an address%s",
		s.adjective(), list(s.NodeAddrs), s.orFamily())
}

// adjective names the family, if only one is usable.
func (s Spec) adjective() string {
	if families := s.families(); len(families) == 1 {
		return families[0].String() + " "
	}
	return ""
}

// orFamily is further advice if only one family is usable.
func (s Spec) orFamily() string {
	switch families := s.families(); {
	case s.Family != 0:
		return fmt.Sprintf(", or underlayFamily (%s) to the other family, on all hosts", s.Family.Proc())
	case len(families) == 1:
		return fmt.Sprintf(", or underlayFamily, on all hosts, if the tunnel need not run over %s", families[0])
	}
	return ""
}

// on chooses an interface and its best address: an address from the registry, else the
// one that the tunnel has, else a global address of the first of the families that the
// interface has.
func (s Spec) on(net Network, l Link, families []family.Family) (Underlay, error) {
	if err := s.usable(l); err != nil {
		return Underlay{}, err
	}
	for _, a := range s.NodeAddrs {
		if !slices.Contains(families, family.Of(a)) {
			continue
		}
		if slices.Contains(l.Addrs, a) || slices.ContainsFunc(net.holders(a), Link.isInternal) {
			return s.with(l, a)
		}
		if err := s.away(net, a); err != nil && l.Name == s.Kept.Name {
			return Underlay{}, err
		}
	}
	for _, f := range families {
		for _, a := range slices.Concat(s.Kept.lasting(l), l.Addrs) {
			if family.Of(a) == f && global(a) {
				return s.with(l, a)
			}
		}
	}
	var names []string
	for _, f := range families {
		names = append(names, f.String())
	}
	return Underlay{}, fmt.Errorf("interface %q has no global %s address: add one, or set underlay to another interface%s",
		l.Name, strings.Join(names, " or "), s.orFamily())
}

// with chooses an interface and the given address of it.
func (s Spec) with(l Link, a netip.Addr) (Underlay, error) {
	if err := s.usable(l); err != nil {
		return Underlay{}, err
	}
	return Underlay{Name: l.Name, Index: l.Index, MTU: l.MTU, Address: a, Addresses: s.reachable(l, a), Networks: l.Networks}, nil
}

// reachable returns the tunnel's address and the best address of the other family.
// It leaves out addresses that may be another host's too: the registry would take
// one of the two hosts for an impostor.
func (s Spec) reachable(l Link, a netip.Addr) []netip.Addr {
	other := func(b netip.Addr) bool {
		return family.Of(b) != family.Of(a) && global(b) && slices.Contains(l.Addrs, b)
	}
	lasting := slices.DeleteFunc(slices.Clone(l.Addrs), func(b netip.Addr) bool { return slices.Contains(l.Transient, b) })
	for _, candidates := range [][]netip.Addr{s.NodeAddrs, s.Kept.lasting(l), lasting} {
		if i := slices.IndexFunc(candidates, other); i >= 0 {
			return []netip.Addr{a, candidates[i]}
		}
	}
	return []netip.Addr{a}
}

func (s Spec) usable(l Link) error {
	switch {
	case slices.Contains(s.Ours, l.Name):
		return fmt.Errorf("interface %q is one of overlay-cni's own, which would send the tunnel through itself: set underlay to another interface", l.Name)
	case l.Loopback:
		return fmt.Errorf("interface %q is a loopback, which reaches no other host: set underlay to another interface", l.Name)
	case !l.Up:
		return fmt.Errorf("interface %q is down: set it up with \"ip link set %s up\", or set underlay to another interface", l.Name, l.Name)
	}
	return nil
}

// families returns the usable families in order of preference. If a family is wanted,
// only that one is usable. Else it is the family of this host's first address in the
// registry, whether the host has that address at the moment or not: the other hosts
// chose by the same list. A host that the registry doesn't know yet keeps the family of
// its tunnel. Otherwise both families are usable, IPv4 first.
func (s Spec) families() []family.Family {
	switch {
	case s.Family != 0:
		return []family.Family{s.Family}
	case len(s.NodeAddrs) > 0:
		return []family.Family{family.Of(s.NodeAddrs[0])}
	case len(s.Kept.Addresses) > 0:
		return []family.Family{family.Of(s.Kept.Addresses[0])}
	}
	both := family.All()
	return both[:]
}

// global reports whether other hosts can send to an address. A link-local address
// would need its interface at every place where it is used.
func global(a netip.Addr) bool { return a.IsGlobalUnicast() }

func list(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return ""
	}
	var names []string
	for _, a := range addrs {
		names = append(names, a.String())
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// join is errors.Join on one line.
func join(errs []error) error {
	err := errs[0]
	for _, e := range errs[1:] {
		err = fmt.Errorf("%w; %w", err, e)
	}
	return err
}
