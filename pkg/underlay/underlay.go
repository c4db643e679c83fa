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

// ErrNotFound is what every error of a choice wraps.
var ErrNotFound = errors.New("no usable underlay")

// Underlay is where the tunnel's own packets go.
type Underlay struct {
	Name  string // of the interface
	Index int
	MTU   int
	// Address is the host's own on the interface, the source of the tunnel's
	// packets. Its family is the tunnel's.
	Address netip.Addr
	// Addresses are Address and the one of the other family, if the interface
	// has one: what this host can be reached by.
	Addresses []netip.Addr
	// OnLink are the networks, of either family, that the host reaches over the
	// interface without a router, in the order of the kernel's routes.
	OnLink []netip.Prefix
	// Drivers are those of the interface and of what carries it, such as the
	// ports of a bond; each once, in order of the names.
	Drivers []string
}

// Spec says what is looked for.
type Spec struct {
	Want config.Underlay
	// Family is the one that the tunnel has to run over.
	Family family.Family
	// NodeAddrs are the addresses under which the registry knows this host, in
	// order of preference. Other hosts send to them, so where one of them is
	// on an interface it is the best source address.
	NodeAddrs []netip.Addr
	// Ours are the names of the devices that we made. A tunnel must not run
	// over itself.
	Ours []string
	// OnLink asks for the networks on the link, which takes a list of all
	// routes of the interface.
	OnLink bool
}

// Choose is the rule, without the kernel.
func Choose(spec Spec, net Network) (Underlay, error) {
	u, err := choose(spec, net)
	if err != nil {
		return Underlay{}, fmt.Errorf("%w: %w; there are %s", ErrNotFound, err, net.describe())
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
		return spec.on(l, []netip.Addr{want.Reaches})
	}
	return spec.auto(net)
}

// needsDefaults says that the default routes count. Listing them takes a list
// of all routes, one for each peer among them.
func (s Spec) needsDefaults(net Network) bool {
	if s.Want != (config.Underlay{}) {
		return false
	}
	return !slices.ContainsFunc(s.NodeAddrs, func(a netip.Addr) bool {
		_, held := net.holder(a)
		return held && s.Family.Allows(a)
	})
}

// auto prefers the address that the other hosts send to over the interface of
// the default route.
func (s Spec) auto(net Network) (Underlay, error) {
	for _, a := range s.NodeAddrs {
		if l, ok := net.holder(a); ok && s.Family.Allows(a) {
			return s.with(l, a)
		}
	}
	defaults := slices.DeleteFunc(slices.Clone(net.Defaults), func(d DefaultRoute) bool { return !s.Family.Allows(d.Family) })
	slices.SortStableFunc(defaults, func(a, b DefaultRoute) int {
		return cmp.Or(compareFamily(a.Family, b.Family), cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Index, b.Index))
	})
	// A default route through one of our own devices, or of a family that the
	// interface has no address of, is passed over for the next one; only if
	// none will do it is worth an error.
	var errs []error
	for _, d := range defaults {
		l, ok := net.find(func(l Link) bool { return l.Index == d.Index })
		if !ok {
			continue
		}
		u, err := s.on(l, []netip.Addr{d.Family})
		if err == nil {
			return u, nil
		}
		errs = append(errs, fmt.Errorf("the %s default route: %w", family.Of(d.Family), err))
	}
	if len(errs) > 0 {
		return Underlay{}, join(errs)
	}
	return Underlay{}, fmt.Errorf("there is no %sdefault route, and no interface has an address by which the registry knows this host%s: set underlay to an interface or an address%s",
		s.adjective(), list(s.NodeAddrs), s.orFamily())
}

// adjective names the family that was asked for, if one was.
func (s Spec) adjective() string {
	if s.Family == 0 {
		return ""
	}
	return s.Family.String() + " "
}

// orFamily is another way out where a family was asked for.
func (s Spec) orFamily() string {
	if s.adjective() == "" {
		return ""
	}
	return fmt.Sprintf(", or underlayFamily (%s) to the other family, on all hosts", s.Family.Proc())
}

// on takes an interface with the best address of the first family it has.
// Families are given by any address of theirs.
func (s Spec) on(l Link, families []netip.Addr) (Underlay, error) {
	for _, a := range s.NodeAddrs {
		if contains(families, a) && slices.Contains(l.Addrs, a) {
			return s.with(l, a)
		}
	}
	for _, f := range families {
		for _, a := range l.Addrs {
			if a.Is4() == f.Is4() && global(a) {
				return s.with(l, a)
			}
		}
	}
	if err := s.usable(l); err != nil {
		return Underlay{}, err
	}
	var names []string
	for _, f := range families {
		names = append(names, family.Of(f).String())
	}
	return Underlay{}, fmt.Errorf("interface %q has no global %s address: add one, or set underlay to another interface%s",
		l.Name, strings.Join(names, " or "), s.orFamily())
}

// with takes an interface and one of its addresses.
func (s Spec) with(l Link, a netip.Addr) (Underlay, error) {
	if err := s.usable(l); err != nil {
		return Underlay{}, err
	}
	return Underlay{Name: l.Name, Index: l.Index, MTU: l.MTU, Address: a, Addresses: s.reachable(l, a)}, nil
}

// reachable are the address of the tunnel and the best one of the other family,
// but none that may be another host's, too: the registry would take one of the two
// hosts for an impostor.
func (s Spec) reachable(l Link, a netip.Addr) []netip.Addr {
	other := func(b netip.Addr) bool { return b.Is4() != a.Is4() && global(b) && slices.Contains(l.Addrs, b) }
	lasting := slices.DeleteFunc(slices.Clone(l.Addrs), func(b netip.Addr) bool { return slices.Contains(l.Passing, b) })
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

// families are the one that was asked for; else those of the addresses that the
// registry has for this host, which the others share; without any, IPv4 before
// IPv6.
func (s Spec) families() []netip.Addr {
	families := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if s.Family != 0 {
		return slices.DeleteFunc(families, func(f netip.Addr) bool { return !s.Family.Allows(f) })
	}
	if len(s.NodeAddrs) > 0 {
		return s.NodeAddrs
	}
	return families
}

func contains(families []netip.Addr, a netip.Addr) bool {
	return slices.ContainsFunc(families, func(f netip.Addr) bool { return f.Is4() == a.Is4() })
}

// global leaves out what other hosts can't send to. A link-local address would
// need its interface with it at every place where it is used.
func global(a netip.Addr) bool { return a.IsGlobalUnicast() }

func compareFamily(a, b netip.Addr) int { return cmp.Compare(a.BitLen(), b.BitLen()) }

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
