package hosts

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
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

// TestManyAtOnce has 64 runtimes add and delete pods at the same time. Each pod
// lives until its runtime's next one is up, so that two pods with one address
// would meet.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	before := p.snapshot(t)
	var holders sync.Map // who has an address, from the end of its ADD to the beginning of its DEL
	var group sync.WaitGroup
	for w := range workers {
		ns := sandboxtest.NewNetns(t)
		group.Go(func() {
			end := func() error { return nil } // the pod before
			for i := range rounds {
				pod := invocation{id: fmt.Sprint("pod", w), netns: ns.Path(), ifName: fmt.Sprint("eth", i%2)}
				held, err := p.hold(t, pod, &holders)
				if err := errors.Join(err, end()); err != nil {
					t.Error(err)
					return
				}
				end = held
			}
			if err := end(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if after := p.snapshot(t); after != before {
		t.Errorf("left behind after %d ADDs and DELs:\n%s", workers*rounds, after)
	}
}

// hold adds a pod and notes its address, which nobody else may have until end
// deletes the pod.
func (p *pluginHost) hold(t *testing.T, pod invocation, holders *sync.Map) (end func() error, err error) {
	t.Helper()
	pod.command = "ADD"
	out, cniErr := p.run(t, pod)
	if cniErr != nil {
		return nil, cniErr
	}
	addr := addressOf(t, out)
	if other, taken := holders.LoadOrStore(addr, pod.id); taken {
		return nil, fmt.Errorf("%s has %s, which %s got too", other, addr, pod.id)
	}
	pod.command = "DEL"
	return func() error {
		holders.Delete(addr)
		if _, cniErr := p.run(t, pod); cniErr != nil {
			return cniErr
		}
		return nil
	}, nil
}

// TestEveryAddressCanBeUsed adds more pods at once than a /24 has addresses. Every
// address is given. The other pods, and later ones, get an error that says why.
func TestEveryAddressCanBeUsed(t *testing.T) {
	t.Parallel()
	const addresses, pods = 253, 256 // all but network, gateway and broadcast
	p := newPlugin(t, "10.244.1.0/24")
	var given, refused atomic.Int64
	var seen sync.Map
	add := func(call invocation) {
		switch out, cniErr := p.run(t, call); {
		case cniErr == nil:
			given.Add(1)
			if other, taken := seen.LoadOrStore(addressOf(t, out), call); taken {
				t.Errorf("%v and %v have the same address", other, call)
			}
		case cniErr.Code == plugin.CodeNoAddress && cniErr.Msg == p.full("10.244.1.0/24", addresses):
			refused.Add(1)
		default:
			t.Errorf("%v, want %s", cniErr, p.full("10.244.1.0/24", addresses))
		}
	}
	var group sync.WaitGroup
	for w := range workers {
		ns := sandboxtest.NewNetns(t)
		group.Go(func() {
			for i := range pods / workers {
				add(invocation{command: "ADD", id: fmt.Sprint("pod", w), netns: ns.Path(), ifName: fmt.Sprint("eth", i)})
			}
		})
	}
	group.Wait()
	add(invocation{command: "ADD", id: "late", netns: sandboxtest.NewNetns(t).Path()})
	if given.Load() != addresses || refused.Load() != pods+1-addresses {
		t.Errorf("%d pods got an address and %d didn't, want %d and %d", given.Load(), refused.Load(), addresses, pods+1-addresses)
	}
}

// full is the error of an ADD for which a subnet has no address.
func (p *pluginHost) full(subnet string, addresses int) string {
	return fmt.Sprintf("no address left in %s: %d of %d are in use (\"ls -l %s/addresses\" shows by whom): delete pods, or give the node a larger subnet",
		subnet, addresses, addresses, p.host.RunDir())
}
