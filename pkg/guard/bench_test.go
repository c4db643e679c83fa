package guard

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// BenchmarkAdd is what an ADD pays: the socket, the pod's elements, and the end of the
// socket, on a host that has some pods. "fastest" is the fastest tenth.
func BenchmarkAdd(b *testing.B) {
	for name, pods := range map[string]int{"first pods": 1, "250 pods": 250} {
		b.Run(name, func(b *testing.B) {
			sandboxtest.Enter(b)
			each := func(n int, do func(k *Kernel, p Pod) error) time.Duration {
				begun := time.Now()
				conn, err := nft.Dial()
				if err != nil {
					b.Fatal(err)
				}
				err = do(On(conn), nth(n))
				conn.Close()
				took := time.Since(begun)
				if err != nil {
					b.Fatal(err)
				}
				return took
			}
			for n := range pods {
				each(n, (*Kernel).Add)
			}
			var all []time.Duration
			b.ResetTimer()
			for range b.N {
				all = append(all, each(pods, (*Kernel).Add))
				b.StopTimer()
				each(pods, (*Kernel).Delete)
				b.StartTimer()
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/10].Microseconds()), "fastest-µs")
			b.ReportMetric(float64(all[len(all)/2].Microseconds()), "median-µs")
		})
	}
}

// nth is one of many pods.
func nth(n int) Pod {
	p := pod(0)
	high, low := byte(n>>8), byte(n)
	p.Port = "veth" + net.HardwareAddr{0, 0, 0, high, low}.String()[6:]
	p.MAC = net.HardwareAddr{2, 0, 0, 1, high, low}
	p.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 244, high, low}), netip.AddrFrom16([16]byte{0: 0xfd, 14: high, 15: low})}
	return p
}
