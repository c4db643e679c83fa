package hosts

import (
	"maps"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/attachment"
)

// bandwidth is a configuration with the capability's arguments.
func (p *pluginHost) bandwidth(values map[string]uint64) []byte {
	return p.with(map[string]any{"runtimeConfig": map[string]any{"bandwidth": values}})
}

// bucket is a token bucket filter, read from the kernel. The reference plugin
// "bandwidth" sets the same values.
type bucket struct {
	rate   uint64 // bytes a second
	limit  uint32 // bytes that may wait: the burst, and what goes within 25 ms
	buffer uint32 // how long the burst takes at that rate, in ticks
}

// millisecond has so many ticks of the kernel's packet scheduler, of 64 ns each.
const millisecond = 1_000_000 / 64

// buckets are all token bucket filters, by the type of their device.
func buckets(t *testing.T, h *netlink.Handle) map[string]bucket {
	t.Helper()
	qdiscs, err := h.QdiscList(nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bucket{}
	for _, q := range qdiscs {
		if tbf, ok := q.(*netlink.Tbf); ok {
			link, err := h.LinkByIndex(tbf.LinkIndex)
			if err != nil {
				t.Fatal(err)
			}
			all[link.Type()] = bucket{tbf.Rate, tbf.Limit, tbf.Buffer}
		}
	}
	return all
}

func TestBandwidth(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		p := newPlugin(t, m.subnets...)
		before := p.snapshot(t)
		ns := sandboxtest.NewNetns(t)
		call := invocation{command: "ADD", netns: ns.Path(), stdin: p.bandwidth(map[string]uint64{
			"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 3_200_000,
		})}
		if _, cniErr := p.run(t, call); cniErr != nil {
			t.Fatal(cniErr)
		}
		h := p.host.Handle()
		want := map[string]bucket{ // at the one device that sends that way
			"veth": {rate: 1_000_000, limit: 100_000 + 25_000, buffer: 100 * millisecond},
			"ifb":  {rate: 2_000_000, limit: 400_000 + 50_000, buffer: 200 * millisecond},
		}
		if got := buckets(t, h); !maps.Equal(got, want) {
			t.Errorf("token buckets are %+v, want %+v", got, want)
		}
		for _, gateway := range m.gateways() {
			if _, err := probe.Ping(withPatience(t), ns, gateway); err != nil {
				t.Error(err)
			}
		}
		shaper, err := h.LinkByName(attachment.Owner{ContainerID: "pod", IfName: "eth0"}.Key().ShaperName())
		if err != nil {
			t.Fatal(err)
		}
		if shaper.Attrs().Statistics.TxPackets == 0 {
			t.Error("what the pod sends doesn't go through its shaper")
		}
		p.del(t, "pod")
		if after := p.snapshot(t); after != before {
			t.Errorf("left behind:\n%s", after)
		}
	})
}

// CHECK names what limits a pod's bandwidth no more, or cuts the pod off.
func TestCheckOfBandwidth(t *testing.T) {
	t.Parallel()
	dual(t, func(t *testing.T, m mode) {
		values := map[string]uint64{"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 3_200_000}
		key := attachment.Owner{ContainerID: "pod", IfName: "eth0"}.Key()
		for want, do := range map[string]func(h *netlink.Handle, port, shaper netlink.Link) error{
			"":                            func(*netlink.Handle, netlink.Link, netlink.Link) error { return nil },
			"is gone, which limits":       func(h *netlink.Handle, _, shaper netlink.Link) error { return h.LinkDel(shaper) },
			key.ShaperName() + " is down": func(h *netlink.Handle, _, shaper netlink.Link) error { return h.LinkSetDown(shaper) },
			key.HostName() + " lacks the limit of 8000000 bit/s": func(h *netlink.Handle, port, _ netlink.Link) error {
				return h.QdiscDel(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: port.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}})
			},
			"does not lead what the pod sends through": func(h *netlink.Handle, port, _ netlink.Link) error {
				return h.QdiscDel(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: port.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}})
			},
		} {
			p := newPlugin(t, m.subnets...)
			ns := sandboxtest.NewNetns(t)
			out, cniErr := p.run(t, invocation{command: "ADD", netns: ns.Path(), stdin: p.bandwidth(values)})
			if cniErr != nil {
				t.Fatal(cniErr)
			}
			h := p.host.Handle()
			port, err := h.LinkByName(key.HostName())
			if err != nil {
				t.Fatal(err)
			}
			shaper, err := h.LinkByName(key.ShaperName())
			if err != nil {
				t.Fatal(err)
			}
			if err := do(h, port, shaper); err != nil {
				t.Fatal(err)
			}
			stdin := p.with(map[string]any{"prevResult": rawJSON(out), "runtimeConfig": map[string]any{"bandwidth": values}})
			_, cniErr = p.run(t, invocation{command: "CHECK", netns: ns.Path(), stdin: stdin})
			if (cniErr == nil) != (want == "") || cniErr != nil && !strings.Contains(cniErr.Msg, want) {
				t.Errorf("CHECK says %v, not %q", cniErr, want)
			}
		}
	})
}

func TestBandwidthThatIsNone(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24")
	ns := sandboxtest.NewNetns(t)
	before := p.snapshot(t)
	for want, values := range map[string]map[string]uint64{
		"ingressRate is 1000 and ingressBurst is 0: give both": {"ingressRate": 1000},
		"egressRate is 0 and egressBurst is 1000: give both":   {"egressBurst": 1000},
		"egressRate is 7 bits a second: the least is 8":        {"egressRate": 7, "egressBurst": 1000},
		"the most is 34359738360":                              {"ingressRate": 1000, "ingressBurst": 1 << 40},
	} {
		_, cniErr := p.run(t, invocation{command: "ADD", netns: ns.Path(), stdin: p.bandwidth(values)})
		if cniErr == nil || !strings.Contains(cniErr.Msg, want) {
			t.Errorf("got %v, want %s", cniErr, want)
		}
		if after := p.snapshot(t); after != before {
			t.Errorf("left behind:\n%s", after)
		}
	}
}
