package hosts

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

// bandwidth is a configuration with the capability's arguments.
func (p *pluginHost) bandwidth(values map[string]uint64) []byte {
	return p.with(map[string]any{"runtimeConfig": map[string]any{"bandwidth": values}})
}

func TestBandwidth(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := newPlugin(t, m.subnets...)
		before := p.snapshot(t)
		ns := sandboxtest.NewNetns(t)
		call := invocation{command: "ADD", netns: ns.Path(), stdin: p.bandwidth(map[string]uint64{
			"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 1_600_000,
		})}
		if _, cniErr := p.run(t, call); cniErr != nil {
			t.Fatal(cniErr)
		}
		// Each limit is in bytes a second at the one device that sends that way.
		got := map[string]uint64{}
		h := p.host.Handle()
		qdiscs, err := h.QdiscList(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range qdiscs {
			tbf, ok := q.(*netlink.Tbf)
			if !ok {
				continue
			}
			link, err := h.LinkByIndex(tbf.LinkIndex)
			if err != nil {
				t.Fatal(err)
			}
			got[link.Type()] = tbf.Rate
		}
		if want := fmt.Sprint(map[string]uint64{"veth": 1_000_000, "ifb": 2_000_000}); fmt.Sprint(got) != want {
			t.Errorf("rates are %v, want %s", got, want)
		}
		for _, gateway := range m.gateways() {
			if _, err := probe.Ping(withPatience(t), ns, gateway); err != nil {
				t.Error(err)
			}
		}
		shaper, err := h.LinkByName(ipam.Owner{ContainerID: "pod", IfName: "eth0"}.Key().ShaperName())
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

func TestBandwidthThatIsNone(t *testing.T) {
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
