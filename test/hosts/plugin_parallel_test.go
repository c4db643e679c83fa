package hosts

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/internal/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/plugin"
)

const (
	workers = 64
	rounds  = 32
)

// addressOf is the one address of a result.
func addressOf(t *testing.T, out string) netip.Addr {
	t.Helper()
	var r types100.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.IPs) != 1 {
		t.Errorf("%v in %s", err, out)
		return netip.Addr{}
	}
	return addrOf(r.IPs[0].Address.IP)
}

// TestManyAtOnce has 64 runtimes add and delete pods at the same time.
func TestManyAtOnce(t *testing.T) {
	p := newPlugin(t, "10.244.1.0/24")
	before := p.snapshot(t)
	var holders sync.Map // who has an address
	var group sync.WaitGroup
	for w := range workers {
		ns := sandboxtest.NewNetns(t)
		group.Go(func() {
			id := fmt.Sprint("pod", w)
			for range rounds {
				out, cniErr := p.run(t, invocation{command: "ADD", id: id, netns: ns.Path()})
				if cniErr != nil {
					t.Error(cniErr)
					return
				}
				addr := addressOf(t, out)
				if other, taken := holders.LoadOrStore(addr, id); taken {
					t.Errorf("%s has %s, which %s got too", other, addr, id)
				}
				holders.Delete(addr)
				if _, cniErr := p.run(t, invocation{command: "DEL", id: id, netns: ns.Path()}); cniErr != nil {
					t.Error(cniErr)
					return
				}
			}
		})
	}
	group.Wait()
	if after := p.snapshot(t); after != before {
		t.Errorf("left behind after %d ADDs and DELs:\n%s", workers*rounds, after)
	}
}

// TestEveryAddressCanBeUsed fills a /24, many at once, with more pods than it
// has addresses: as many as there are get one.
func TestEveryAddressCanBeUsed(t *testing.T) {
	const addresses, pods = 253, 256 // all but network, gateway and broadcast
	p := newPlugin(t, "10.244.1.0/24")
	var given, refused atomic.Int64
	var seen sync.Map
	var group sync.WaitGroup
	for w := range workers {
		ns := sandboxtest.NewNetns(t)
		group.Go(func() {
			for i := range pods / workers {
				call := invocation{command: "ADD", id: fmt.Sprint("pod", w), netns: ns.Path(), ifName: fmt.Sprint("eth", i)}
				switch out, cniErr := p.run(t, call); {
				case cniErr == nil:
					given.Add(1)
					if other, taken := seen.LoadOrStore(addressOf(t, out), call); taken {
						t.Errorf("%v and %v have the same address", other, call)
					}
				case cniErr.Code == plugin.CodeNoAddress:
					refused.Add(1)
				default:
					t.Error(cniErr)
				}
			}
		})
	}
	group.Wait()
	if given.Load() != addresses || refused.Load() != pods-addresses {
		t.Errorf("%d pods got an address and %d didn't, want %d and %d", given.Load(), refused.Load(), addresses, pods-addresses)
	}
}
