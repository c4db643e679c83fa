package plugin

import (
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// sets reads ipam.ranges.
func (c ipamConf) sets() ([]ipam.RangeSet, error) {
	sets := make([]ipam.RangeSet, len(c.Ranges))
	for i, set := range c.Ranges {
		for _, r := range set {
			parsed, err := r.parse()
			if err != nil {
				return nil, err
			}
			sets[i] = append(sets[i], parsed)
		}
	}
	sets, err := ipam.Complete(sets)
	if err != nil {
		return nil, invalid("ipam.ranges: %s", err)
	}
	return sets, nil
}

func (c rangeConf) parse() (ipam.Range, error) {
	var r ipam.Range
	if c.Subnet == "" {
		return r, invalid("ipam.ranges: a range has no subnet: write {\"subnet\": \"10.244.1.0/24\"}")
	}
	subnet, err := netip.ParsePrefix(c.Subnet)
	if err != nil {
		return r, invalid("ipam.ranges: subnet %q is not a prefix such as 10.244.1.0/24", c.Subnet)
	}
	r.Subnet = subnet
	for _, a := range []struct {
		key, text string
		to        *netip.Addr
	}{
		{"rangeStart", c.RangeStart, &r.Start},
		{"rangeEnd", c.RangeEnd, &r.End},
		{"gateway", c.Gateway, &r.Gateway},
	} {
		if a.text == "" {
			continue
		}
		if *a.to, err = netip.ParseAddr(a.text); err != nil {
			return r, invalid("ipam.ranges: %s %q of %s is not an IP address", a.key, a.text, c.Subnet)
		}
	}
	for _, text := range c.Exclude {
		p, err := parseExclude(text)
		if err != nil {
			return r, invalid("ipam.ranges: exclude %q of %s is neither a prefix nor an IP address", text, c.Subnet)
		}
		r.Exclude = append(r.Exclude, p)
	}
	return r, nil
}

// parseExclude reads a prefix or a single address.
func parseExclude(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
}

// supported refuses a route with keys that the plugin can't set.
func (c routeConf) supported() error {
	for _, k := range []struct {
		key   string
		value json.RawMessage
	}{{"mtu", c.MTU}, {"advmss", c.AdvMSS}, {"priority", c.Priority}, {"table", c.Table}, {"scope", c.Scope}} {
		if len(k.value) > 0 && string(k.value) != "null" {
			return invalid("ipam.routes: the route to %s has the key %q, which this plugin can't set: leave it out", c.Dst, k.key)
		}
	}
	return nil
}

// routes reads ipam.routes. A route without a gateway uses the pod's gateway of the
// route's family.
func (c ipamConf) routes(gateways map[family.Family]netip.Addr) ([]veth.Route, error) {
	var routes []veth.Route
	for _, r := range c.Routes {
		if err := r.supported(); err != nil {
			return nil, err
		}
		dst, err := netip.ParsePrefix(r.Dst)
		if err != nil {
			return nil, invalid("ipam.routes: dst %q is not a prefix such as 192.168.0.0/16", r.Dst)
		}
		if dst.Bits() == 0 && r.GW == "" {
			continue // the default route is there anyway
		}
		via := gateways[family.Of(dst.Addr())]
		if r.GW != "" {
			if via, err = netip.ParseAddr(r.GW); err != nil {
				return nil, invalid("ipam.routes: gw %q of %s is not an IP address", r.GW, r.Dst)
			}
		}
		if !via.IsValid() || via.Is4() != dst.Addr().Is4() {
			return nil, invalid("ipam.routes: %s has no gateway of its address family", r.Dst)
		}
		if hasRoute(routes, dst.Masked()) {
			return nil, invalid("ipam.routes: there are two routes to %s: leave one out", dst.Masked())
		}
		routes = append(routes, veth.Route{Dst: dst.Masked(), Via: via})
	}
	return routes, nil
}

func hasRoute(routes []veth.Route, dst netip.Prefix) bool {
	return slices.ContainsFunc(routes, func(r veth.Route) bool { return r.Dst == dst })
}
