package vxlan

import (
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// enableIPv6 turns IPv6 on for the device if the operations add an IPv6 address:
// a host may have IPv6 off for all new devices. A kernel without that sysctl has
// no IPv6 either, and refuses the address.
func enableIPv6(device string, ops []Op) error {
	adds := func(o Op) bool { return o.Verb == AddAddress && o.Subnet.Addr().Is6() }
	enabled := sysctl.Parameter{Path: "net/ipv6/conf/" + device + "/disable_ipv6", Value: "0"}
	if _, err := sysctl.Get(enabled.Path); err != nil || !slices.ContainsFunc(ops, adds) {
		return nil
	}
	_, err := sysctl.Sync([]sysctl.Parameter{enabled})
	return err
}
