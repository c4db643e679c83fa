package daemon

import (
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// routers are the devices whose switches matter. IPv6 looks at the host's alone.
func routers(in input) []string {
	if !slices.ContainsFunc(in.own.Subnets, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		return nil
	}
	return []string{in.config.Bridge, in.config.VXLAN.Device}
}

// switches are what IPv4 has for each interface.
func switches(devices []string) []sysctl.Parameter {
	var want []sysctl.Parameter
	for _, name := range devices {
		// Turning the host's forwarding on turns it on for the interfaces that
		// there are; later ones begin with net.ipv4.conf.default.
		want = append(want, sysctl.Parameter{Path: conf(name, "forwarding"), Value: "1"})
		if strict(name) {
			want = append(want, sysctl.Parameter{Path: conf(name, rpFilter), Value: loose})
		}
	}
	return want
}

// deaf has a device heed no router advertisements: pods, and whoever else can
// send through the tunnel, are no routers of this host. Nothing is to be done in
// a kernel without IPv6.
func deaf(device string) []sysctl.Parameter {
	p := sysctl.Parameter{Path: "net/ipv6/conf/" + device + "/accept_ra", Value: "0"}
	if _, err := sysctl.Get(p.Path); err != nil {
		return nil
	}
	return []sysctl.Parameter{p}
}

// Values of rp_filter (Documentation/networking/ip-sysctl.rst). The larger one
// of the host's and the interface's counts, so an interface can be looser than
// a strict host, which is 1, but not without any filter.
const (
	rpFilter = "rp_filter"
	loose    = "2"
)

// strict tells that a device drops what comes in another way than it would be
// answered. A host's own address is answered over the underlay, though it came
// through the tunnel, where a program there chose it for what it sends to pods.
func strict(name string) bool {
	host, err := sysctl.Get(conf("all", rpFilter))
	if err != nil {
		return false
	}
	own, err := sysctl.Get(conf(name, rpFilter))
	return err == nil && max(host, own) == "1"
}

func conf(device, name string) string { return "net/ipv4/conf/" + device + "/" + name }
