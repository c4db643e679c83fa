package vxlan

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// manyPeersV6 gives each a /64 of fd00::/32.
func manyPeersV6(n int) []registry.Node {
	peers := manyPeers(n)
	for i := range peers {
		peers[i].Subnets[0] = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 4: byte(i >> 8), byte(i)}), 64)
	}
	return peers
}

// manyPeers gives each a /24 of 10.0.0.0/8 and an address of 172.16.0.0/12.
func manyPeers(n int) []registry.Node {
	peers := make([]registry.Node, n)
	for i := range peers {
		peers[i] = registry.Node{
			Name:      fmt.Sprintf("host-%d", i),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})},
			Subnets:   []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)},
		}
	}
	return peers
}

// benchmark runs with pods of one family, for which the kernel's work differs.
func benchmark(b *testing.B, run func(b *testing.B, h *host, in Input)) {
	for _, n := range []int{10, 1000, 5000, 20000} {
		for family, peers := range map[string][]registry.Node{"IPv4": manyPeers(n), "IPv6": manyPeersV6(n)} {
			b.Run(fmt.Sprintf("peers=%d/%s", n, family), func(b *testing.B) {
				h := newHost(b).withUnderlay("192.168.77.1/24")
				run(b, h, Input{
					Config: testConfig(), Underlay: h.underlayOf("192.168.77.1"),
					Own: node("own", "192.168.77.1", "10.244.1.0/24 fd44::/64"), Nodes: peers,
				})
			})
		}
	}
}

// BenchmarkFirstSync programs all peers, starting from nothing. BenchmarkDesired
// measures the part that does not involve the kernel.
func BenchmarkFirstSync(b *testing.B) {
	benchmark(b, func(b *testing.B, h *host, in Input) {
		b.ReportAllocs()
		for b.Loop() {
			want, err := Desired(in)
			h.must(err)
			h.sync(want)
			b.StopTimer()
			h.remove()
			b.StartTimer()
		}
	})
}

// BenchmarkIdleSync finds that nothing is to be done.
func BenchmarkIdleSync(b *testing.B) {
	benchmark(b, func(b *testing.B, h *host, in Input) {
		want, err := Desired(in)
		h.must(err)
		h.sync(want)
		b.ReportAllocs()
		for b.Loop() {
			want, err := Desired(in)
			h.must(err)
			if changes := h.sync(want); len(changes) > 0 {
				b.Fatal(changes)
			}
		}
	})
}

// BenchmarkOneChange moves one peer in each iteration.
func BenchmarkOneChange(b *testing.B) {
	benchmark(b, func(b *testing.B, h *host, in Input) {
		keep := func() Changes {
			want, err := Desired(in)
			h.must(err)
			return h.sync(want)
		}
		for len(keep()) > 0 {
		}
		elsewhere := netip.MustParseAddr("172.31.255.1")
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			// As a registry does it: a new slice of the same nodes but one.
			in.Nodes = slices.Clone(in.Nodes)
			peer := &in.Nodes[i/2%len(in.Nodes)]
			was := peer.Addresses[0]
			peer.Addresses = []netip.Addr{elsewhere}
			elsewhere = was
			if changes := keep(); len(changes) != 1 {
				b.Fatal(changes)
			}
		}
	})
}

// BenchmarkDesired is the pure part.
func BenchmarkDesired(b *testing.B) {
	in := Input{
		Config: testConfig(), Own: node("own", "192.168.77.1", "10.244.1.0/24"), Nodes: manyPeers(5000),
	}
	in.Underlay.MTU, in.Underlay.Address = 1500, netip.MustParseAddr("192.168.77.1")
	b.ReportAllocs()
	for b.Loop() {
		want, err := Desired(in)
		if err != nil {
			b.Fatal(err)
		}
		if ops := Plan(want, State{}); len(ops) < 15000 {
			b.Fatal(len(ops))
		}
	}
}
