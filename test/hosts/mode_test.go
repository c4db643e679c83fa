package hosts

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/internal/lab"
)

// mode is which address families there are: of pods, and of the hosts' network.
type mode struct {
	name    string
	subnets []string // of the pods, where there is no daemon
}

const onlyIPv4, onlyIPv6, dualStack = "IPv4", "IPv6", "dual stack"

// modes are the address families of the tests. Hosts with IPv6-only pods have
// only IPv6 addresses themselves.
var modes = []mode{
	{onlyIPv4, []string{"10.244.1.0/24"}},
	{onlyIPv6, []string{"fd00:244:1::/64"}},
	{dualStack, []string{"10.244.1.0/24", "fd00:244:1::/64"}},
}

// eachMode runs the modes side by side: they wait more than they work.
func eachMode(t *testing.T, test func(t *testing.T, m mode)) {
	t.Helper()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			test(t, m)
		})
	}
}

// eachFamily is eachMode for what depends on the tunnel's family alone.
func eachFamily(t *testing.T, test func(t *testing.T, m mode)) {
	t.Helper()
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			test(t, m)
		})
	}
}

// dual runs a test where the family makes no difference: once, with both.
func dual(t *testing.T, test func(t *testing.T, m mode)) {
	t.Helper()
	test(t, modes[slices.IndexFunc(modes, func(m mode) bool { return m.name == dualStack })])
}

// has tells whether the mode has the family of an address.
func (m mode) has(a netip.Addr) bool { return len(inMode(m, []netip.Addr{a})) > 0 }

func (m mode) hasIPv4() bool { return m.has(netip.IPv4Unspecified()) }
func (m mode) hasIPv6() bool { return m.has(netip.IPv6Unspecified()) }

// set gives a lab the mode's families.
func (m mode) set(c *lab.Config) {
	c.PodNetworks = inMode(m, prefixesOf(podNet4, podNet6))
	c.Segments = inMode(m, prefixesOf("192.168.77.254/24", "fd77::ffff/64"))
	c.Outside = inMode(m, []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")})
}

// prefixes parses constants and keeps those of the mode's families.
func (m mode) prefixes(texts ...string) []netip.Prefix { return inMode(m, prefixesOf(texts...)) }

func prefixesOf(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// inMode keeps what is of the mode's families.
func inMode[T netip.Addr | netip.Prefix](m mode, all []T) []T {
	var some []T
	for _, v := range all {
		is6 := false
		switch v := any(v).(type) {
		case netip.Addr:
			is6 = v.Is6()
		case netip.Prefix:
			is6 = v.Addr().Is6()
		}
		if m.name == dualStack || is6 == (m.name == onlyIPv6) {
			some = append(some, v)
		}
	}
	return some
}

// overhead is the size of the tunnel's headers, in bytes. The tunnel uses the
// first family of a host.
func (m mode) overhead() int {
	if m.name == onlyIPv6 {
		return 70
	}
	return 50
}

// gateways are the pods', where there is no daemon.
func (m mode) gateways() []netip.Addr {
	var all []netip.Addr
	for _, p := range prefixesOf(m.subnets...) {
		all = append(all, p.Addr().Next())
	}
	return all
}

// joined lists addresses in a text.
func joined(addrs []netip.Addr, separator string) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, separator)
}
