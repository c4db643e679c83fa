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
		return spec.on(l, spec.families())
	case want.Address.IsValid():
		l, ok := net.holder(want.Address)
		if !ok {
			return Underlay{}, fmt.Errorf("no interface has the address %s: set underlay to an address of this host", want.Address)
		}
		return spec.with(l, want.Address)
	case want.Reaches.IsValid():
		l, ok := net.find(func(l Link) bool { return l.Index == net.Reached })
		if !ok {
			return Underlay{}, fmt.Errorf("no route leads to %s: add one, or set underlay to an interface", want.Reaches)
		}
		return spec.on(l, []family.Family{family.Of(want.Reaches)})
	}
	return spec.auto(net)
}

// needsDefaults reports whether the choice needs the default routes. They take a
// list of all routes, with one route for each peer.
func (s Spec) needsDefaults(net Network) bool {
	if s.Want != (config.Underlay{}) {
		return false
	}
	return !slices.ContainsFunc(s.NodeAddrs, func(a netip.Addr) bool {
		_, held := net.holder(a)
		return held && s.Family.Allows(a)
	})
}

// auto prefers an address that other hosts send to over the interface of the
// default route.
func (s Spec) auto(net Network) (Underlay, error) {
	for _, a := range s.NodeAddrs {
		if l, ok := net.holder(a); ok && s.Family.Allows(a) {
			return s.with(l, a)
		}
	}
	defaults := slices.DeleteFunc(slices.Clone(net.Defaults), func(d DefaultRoute) bool { return s.Family != 0 && s.Family != d.Family })
	slices.SortStableFunc(defaults, func(a, b DefaultRoute) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Index, b.Index))
	})
	// The first usable default route wins. A route is not usable if it leads through
	// one of our own devices, or if its interface has no address of its family.
	var errs []error
	for _, d := range defaults {
		l, ok := net.find(func(l Link) bool { return l.Index == d.Index })
		if !ok {
			continue
		}
		u, err := s.on(l, []family.Family{d.Family})
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

// adjective names the wanted family, if there is one.
func (s Spec) adjective() string {
	if s.Family == 0 {
		return ""
	}
	return s.Family.String() + " "
}

// orFamily is further advice if a family is wanted.
func (s Spec) orFamily() string {
	if s.adjective() == "" {
		return ""
	}
	return fmt.Sprintf(", or underlayFamily (%s) to the other family, on all hosts", s.Family.Proc())
}

// on chooses an interface and its best address: an address from the registry, else a
// global address of the first of the families that the interface has.
func (s Spec) on(l Link, families []family.Family) (Underlay, error) {
	for _, a := range s.NodeAddrs {
		if slices.Contains(families, family.Of(a)) && slices.Contains(l.Addrs, a) {
			return s.with(l, a)
		}
	}
	for _, f := range families {
		for _, a := range l.Addrs {
			if family.Of(a) == f && global(a) {
				return s.with(l, a)
			}
		}
	}
	if err := s.usable(l); err != nil {
		return Underlay{}, err
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
	return Underlay{Name: l.Name, Index: l.Index, MTU: l.MTU, Address: a, Addresses: s.reachable(l, a)}, nil
}

// reachable returns the tunnel's address and the best address of the other family.
// It leaves out addresses that may be another host's too: the registry would take
// one of the two hosts for an impostor.
func (s Spec) reachable(l Link, a netip.Addr) []netip.Addr {
	other := func(b netip.Addr) bool {
		return family.Of(b) != family.Of(a) && global(b) && slices.Contains(l.Addrs, b)
	}
	lasting := slices.DeleteFunc(slices.Clone(l.Addrs), func(b netip.Addr) bool { return slices.Contains(l.Transient, b) })
	for _, candidates := range [][]netip.Addr{s.NodeAddrs, lasting} {
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
// only that one is usable. Otherwise the families of this host's addresses in the
// registry are usable, because other hosts send to these addresses. If the registry
// has none, both families are usable, IPv4 first.
func (s Spec) families() []family.Family {
	if s.Family != 0 {
		return []family.Family{s.Family}
	}
	var families []family.Family
	for _, a := range s.NodeAddrs {
		families = append(families, family.Of(a))
	}
	if len(families) == 0 {
		return []family.Family{family.IPv4, family.IPv6}
	}
	return families
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
