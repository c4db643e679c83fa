package firewall_test

import (
	"fmt"
	"net/netip"
	"testing"
)

// One host joins or leaves a network of so many: the table is computed anew, and
// changed in the kernel.
func BenchmarkOneChange(b *testing.B) {
	for _, peers := range []uint32{10, 1000, 5000} {
		b.Run(fmt.Sprintf("%d peers", peers), func(b *testing.B) {
			h, c := newHost(b), testConfig()
			for i := range peers {
				c.Network = append(c.Network, netip.PrefixFrom(v4(11<<24+i<<9), 24), netip.PrefixFrom(v6(i<<1+1<<20), 64))
				c.Tunnel.Peers = append(c.Tunnel.Peers, v4(172<<24+i), v6(i+1<<24))
			}
			h.sync(desired(b, c))
			less := c
			less.Network, less.Tunnel.Peers = c.Network[:len(c.Network)-2], c.Tunnel.Peers[:len(c.Tunnel.Peers)-2]
			for i := 0; b.Loop(); i++ {
				if i%2 == 0 {
					h.sync(desired(b, less))
				} else {
					h.sync(desired(b, c))
				}
			}
		})
	}
}
