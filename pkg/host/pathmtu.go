package host

import (
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

// fragmented reports whether routers between the hosts fragment the tunnel's packets
// where these are too large. Then no path's MTU is ever known, or needed.
func fragmented(in Input) bool {
	return in.Underlay.Address.Is4() && in.Config.VXLAN.DF == tunnel.DFUnset
}

// forwardByPMTU is for paths between hosts that are narrower than the hosts'
// interfaces. The kernel learns the MTU of such a path from ICMP messages, and what
// is left of it for pods. By default only the host's own packets heed that: pods'
// packets of IPv4 would be dropped at each try, and nobody would tell the pod.
func (s Sysctls) forwardByPMTU() []sysctl.Parameter {
	if !s.ForwardByPMTU {
		return nil
	}
	return []sysctl.Parameter{{Path: "net/ipv4/ip_forward_use_pmtu", Value: "1"}}
}
