package hostport

import (
	"errors"
	"net/netip"
	"testing"
)

// benchPod is a pod of its own address with ports of its own.
func benchPod(n int, mappings ...Mapping) Pod {
	return Pod{Bridge: "lo", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)})}, Mappings: mappings}
}

// fill puts as many elements into the table.
func fill(b *testing.B, m *machine, elements int) {
	b.Helper()
	var want Want
	for i := range elements {
		want.Pods = append(want.Pods, benchPod(i, Mapping{HostPort: uint16(10000 + i), ContainerPort: 80, Protocol: SCTP}))
	}
	inside(b, m.host, func(k *Kernel) error {
		_, err := k.Sync(func() (Want, error) { return want, nil })
		return err
	})
}

// Benchmarks measure what an ADD or a DEL pays for a host port. They leave out
// the end of a socket: after a deletion it takes the kernel some 20 ms, as long
// as it takes anyway until what was deleted is freed.

func BenchmarkAdd(b *testing.B)    { benchmark(b, (*Kernel).Add, (*Kernel).Delete) }
func BenchmarkDelete(b *testing.B) { benchmark(b, (*Kernel).Delete, (*Kernel).Add) }

// BenchmarkOpen is what the first use costs beside.
func BenchmarkOpen(b *testing.B) {
	for range b.N {
		k, err := Open()
		if err != nil {
			b.Fatal(err)
		}
		k.Close()
	}
}

func benchmark(b *testing.B, measured, undo func(*Kernel, Pod) error) {
	for _, bm := range []struct {
		name     string
		present  int
		protocol Protocol
		family   int
	}{
		{"tcp with 0 others", 0, TCP, 0}, {"tcp with 5000 others", 5000, TCP, 0},
		{"udp with 0 others", 0, UDP, 0}, {"udp with 5000 others", 5000, UDP, 0},
		{"tcp over IPv6", 0, TCP, 1}, {"udp over IPv6", 0, UDP, 1},
	} {
		b.Run(bm.name, func(b *testing.B) {
			m := newMachine(b)
			fill(b, m, bm.present)
			p := benchPod(7000, Mapping{HostPort: 8080, ContainerPort: 80, Protocol: bm.protocol})
			p.Addresses[0] = networks()[bm.family].pods[0]
			inside(b, m.host, func(k *Kernel) error {
				if err := undo(k, p); err != nil {
					return err
				}
				b.ResetTimer()
				for range b.N {
					b.StartTimer()
					err := measured(k, p)
					b.StopTimer()
					if err = errors.Join(err, undo(k, p)); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}
