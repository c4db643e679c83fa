package vxlan

import (
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// permit turns IPv6 on for the device where it is to get such an address: a host
// may have it off for all devices that nobody asked for. Where the kernel has no
// such switch it has no IPv6 either, and says so of the address.
func permit(device string, ops []Op) error {
	adds := func(o Op) bool { return o.Verb == AddAddress && o.Subnet.Addr().Is6() }
	off := sysctl.Parameter{Path: "net/ipv6/conf/" + device + "/disable_ipv6", Value: "0"}
	if _, err := sysctl.Get(off.Path); err != nil || !slices.ContainsFunc(ops, adds) {
		return nil
	}
	_, err := sysctl.Ensure([]sysctl.Parameter{off})
	return err
}
