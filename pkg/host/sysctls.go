package host

import (
	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// Sysctls are the kernel parameters of our devices.
type Sysctls struct {
	// Routers are the devices that IPv4 is routed through. IPv6 has no such
	// parameters for single devices.
	Routers []string
	// IgnoreRA is the device on which the kernel must not accept router
	// advertisements: pods, and whoever else can send through the tunnel, are no
	// routers of this host.
	IgnoreRA string
}

func sysctlsOf(in Input) Sysctls {
	s := Sysctls{IgnoreRA: in.Config.VXLAN.Device}
	if len(family.IPv4.Filter(in.Own.Subnets)) > 0 {
		s.Routers = []string{in.Config.Bridge, in.Config.VXLAN.Device}
	}
	return s
}

func (s Sysctls) sync() ([]string, error) { return sysctl.Sync(append(s.routing(), s.ignoreRA()...)) }

func (s Sysctls) routing() []sysctl.Parameter {
	var want []sysctl.Parameter
	for _, device := range s.Routers {
		// Turning the host's forwarding on turns it on for the devices that exist.
		// Later ones begin with net.ipv4.conf.default.
		want = append(want, sysctl.Parameter{Path: conf(device, "forwarding"), Value: "1"})
		if strict(device) {
			want = append(want, sysctl.Parameter{Path: conf(device, rpFilter), Value: loose})
		}
	}
	return want
}

// ignoreRA returns nothing in a kernel without IPv6.
func (s Sysctls) ignoreRA() []sysctl.Parameter {
	p := sysctl.Parameter{Path: "net/ipv6/conf/" + s.IgnoreRA + "/accept_ra", Value: "0"}
	if _, err := sysctl.Get(p.Path); err != nil {
		return nil
	}
	return []sysctl.Parameter{p}
}

// Values of rp_filter (Documentation/networking/ip-sysctl.rst): the kernel uses
// the larger value of the host's and the device's. So a device can be looser than
// a strict host, which has 1, but not without any filter.
const (
	rpFilter = "rp_filter"
	loose    = "2"
)

// strict reports whether a device drops a packet if the route to its sender leads
// over another device. Such packets arrive through the tunnel: a program on another
// host may send to pods from that host's underlay address, and the route to that
// address leads over the underlay.
func strict(device string) bool {
	host, err := sysctl.Get(conf("all", rpFilter))
	if err != nil {
		return false
	}
	own, err := sysctl.Get(conf(device, rpFilter))
	return err == nil && max(host, own) == "1"
}

func conf(device, name string) string { return "net/ipv4/conf/" + device + "/" + name }
