package vxlan

import (
	"fmt"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/pkg/underlay"
)

// Overhead returns how many bytes of the underlay's MTU the tunnel takes if the
// outer packets are of the family: 50 for IPv4, 70 for IPv6.
func Overhead(outer family.Family) int {
	const inner = 8 + 8 + 14 // UDP, VXLAN (RFC 7348), the inner Ethernet header
	if outer == family.IPv4 {
		return 20 + inner
	}
	return 40 + inner
}

// MaxMTU returns what the underlay leaves to the pods, in bytes. The kernel refuses
// more for a tunnel device.
func MaxMTU(u underlay.Underlay) int { return u.MTU - Overhead(family.Of(u.Address)) }

// minIPv6MTU is what every IPv6 link must carry, in bytes (RFC 8200, section 5).
// The kernel turns IPv6 off on an interface with a smaller MTU.
const minIPv6MTU = 1280

// CheckIPv6 returns an error if the underlay is too narrow for IPv6 pods.
func CheckIPv6(u underlay.Underlay) error {
	if MaxMTU(u) >= minIPv6MTU {
		return nil
	}
	return fmt.Errorf("IPv6 pods need an MTU of %d, but underlay %s, whose MTU is %d, leaves %d: raise the MTU of %[2]s to %[5]d or more",
		minIPv6MTU, u.Name, u.MTU, MaxMTU(u), minIPv6MTU+Overhead(family.Of(u.Address)))
}

func deviceMTU(in Input) (int, error) {
	most, mtu := MaxMTU(in.Underlay), in.Config.MTU
	if mtu == 0 {
		mtu = most
	}
	ipv6 := family.IPv6.Filter(in.Own.Subnets)
	if len(ipv6) > 0 {
		if err := CheckIPv6(in.Underlay); err != nil {
			return 0, err
		}
	}
	if mtu > most {
		return 0, fmt.Errorf("mtu %d is too large for underlay %s, whose MTU of %d leaves %d to the pods: set mtu to 0 or at most %[4]d",
			mtu, in.Underlay.Name, in.Underlay.MTU, most)
	}
	if len(ipv6) > 0 && mtu < minIPv6MTU {
		return 0, fmt.Errorf("mtu %d is less than the %d that IPv6 pods need (%s): set mtu to 0, or from %[2]d to %[4]d",
			mtu, minIPv6MTU, ipv6[0], most)
	}
	return mtu, nil
}
