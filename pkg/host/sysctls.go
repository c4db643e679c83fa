package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// Sysctls are the kernel parameters of the devices that pods' packets pass.
type Sysctls struct {
	// Routers are our devices that IPv4 is routed through, and Routers6 those for IPv6.
	// Whether the kernel forwards IPv6 is decided by the host's parameter alone, but a
	// device that doesn't forward tells pods that it is no router.
	Routers, Routers6 []string
	// Underlay is the device by which answers from outside come to IPv4 pods.
	Underlay string
	// Bridge is the device on which pods ask for their gateway's MAC address.
	Bridge string
	// Tunnel is the tunnel's device.
	Tunnel string
	// MTU6 is the device's MTU for IPv6, in bytes; 0: pods have no IPv6.
	MTU6 int
	// ForwardByPMTU makes the kernel respect the known MTU of a path when it forwards
	// IPv4, as it always does for IPv6.
	ForwardByPMTU bool
}

func sysctlsOf(in Input, mtu int) Sysctls {
	s := Sysctls{Tunnel: in.Config.VXLAN.Device}
	if len(family.IPv4.Filter(in.Own.Subnets)) > 0 {
		s.Routers = []string{in.Config.Bridge, in.Config.VXLAN.Device}
		s.Underlay, s.Bridge = in.Underlay.Name, in.Config.Bridge
		s.ForwardByPMTU = !fragmented(in)
	}
	if len(family.IPv6.Filter(in.Own.Subnets)) > 0 {
		s.Routers6 = []string{in.Config.Bridge, in.Config.VXLAN.Device}
		s.MTU6 = mtu
	}
	return s
}

func (s Sysctls) sync() ([]string, error) {
	changes, err := sysctl.Sync(slices.Concat(s.routing(), s.routing6(), s.answering(), s.tunnel(), s.forwardByPMTU()))
	devices := slices.Concat(s.Routers, s.Routers6, []string{s.Underlay, s.Bridge, s.Tunnel})
	if errors.Is(err, fs.ErrNotExist) && slices.ContainsFunc(devices, isGone) {
		// Somebody deleted the device since its part was synced. The kernel reports
		// that, and the next round makes it again.
		err = nil
	}
	return changes, errors.Join(err, s.silent())
}

func isGone(device string) bool {
	_, err := os.Stat("/proc/sys/" + filepath.Dir(conf(device, rpFilter)))
	return errors.Is(err, fs.ErrNotExist)
}

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
	if s.Underlay != "" {
		want = append(want, sysctl.Parameter{Path: conf(s.Underlay, "forwarding"), Value: "1"})
	}
	return want
}

// routing6 returns nothing in a kernel without IPv6.
func (s Sysctls) routing6() []sysctl.Parameter {
	var want []sysctl.Parameter
	for _, device := range s.Routers6 {
		p := sysctl.IPv6(device, "forwarding", "1")
		if _, err := sysctl.Get(p.Path); err == nil {
			want = append(want, p)
		}
	}
	return want
}

// arpIgnore says which ARP requests a device answers. Up to 2 they are those for its own
// addresses, from its own subnet. With more, a device may answer none. The kernel uses
// the larger value of the host's and the device's.
const (
	arpIgnore   = "arp_ignore"
	mostIgnored = "2"
)

// answering has the bridge answer pods that ask for their gateway's MAC address.
func (s Sysctls) answering() []sysctl.Parameter {
	if v, err := sysctl.Get(conf(s.Bridge, arpIgnore)); s.Bridge == "" || err != nil || v <= mostIgnored {
		return nil
	}
	return []sysctl.Parameter{{Path: conf(s.Bridge, arpIgnore), Value: "0"}}
}

// silent reports that the host answers no ARP request. It is the host's own decision
// for all its devices, so it stays.
func (s Sysctls) silent() error {
	if v, err := sysctl.Get(conf("all", arpIgnore)); s.Bridge != "" && err == nil && v > mostIgnored {
		return fmt.Errorf("net.ipv4.conf.all.arp_ignore is %s, so %s doesn't answer pods that ask for their gateway's MAC address: set it to %s or less",
			v, s.Bridge, mostIgnored)
	}
	return nil
}

// tunnel returns what else the tunnel's device must have, as far as the kernel has it.
// docs/architecture.md says why the other sysctls of the device don't matter.
func (s Sysctls) tunnel() []sysctl.Parameter {
	want := []sysctl.Parameter{
		// Else programs that listen on 127.0.0.1 alone could be reached from other hosts.
		{Path: conf(s.Tunnel, "route_localnet"), Value: "0"},
		// Pods, and whoever else can send through the tunnel, are no routers of this host.
		sysctl.IPv6(s.Tunnel, sysctl.AcceptRA, "0"),
	}
	if s.MTU6 > 0 {
		// The kernel keeps an MTU of its own for IPv6, at most the device's.
		want = append(want, sysctl.IPv6(s.Tunnel, sysctl.DisableIPv6, "0"), sysctl.IPv6(s.Tunnel, "mtu", strconv.Itoa(s.MTU6)))
	}
	return slices.DeleteFunc(want, func(p sysctl.Parameter) bool {
		_, err := sysctl.Get(p.Path)
		return err != nil
	})
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
