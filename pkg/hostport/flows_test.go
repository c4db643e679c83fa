package hostport

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// flow is the first packet of a UDP flow.
type flow struct {
	from, to netip.AddrPort
}

// flows are all UDP flows to the port in the host's connection tracking.
func (m *machine) flows(n network, port uint16) map[flow]bool {
	m.t.Helper()
	var list []*netlink.ConntrackFlow
	sandboxtest.Do(m.t, m.host, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		list, err = h.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(family.Of(n.host)))
		return err
	})
	flows := map[flow]bool{}
	for _, f := range list {
		if f.Forward.Protocol == unix.IPPROTO_UDP && f.Forward.DstPort == port {
			from, _ := netip.AddrFromSlice(f.Forward.SrcIP)
			to, _ := netip.AddrFromSlice(f.Forward.DstIP)
			flows[flow{netip.AddrPortFrom(from.Unmap(), f.Forward.SrcPort), netip.AddrPortFrom(to.Unmap(), port)}] = true
		}
	}
	return flows
}

// Only those flows are deleted that lead elsewhere than new ones: those to the
// host itself before a port is opened, those led to the pod after it is closed.
func TestForgetsOnlyWhatIsStale(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, n network) {
		m := newMachine(t)
		send := func(from *sandbox.Netns, to netip.Addr) (sent flow) {
			before := m.flows(n, 5300)
			c := m.sticky(from, netip.AddrPortFrom(to, 5300))
			must(t, probe.Eventually(within(t, patience), func(context.Context) error {
				_, _ = c.conn.Write([]byte("hello")) // nobody may be there
				for f := range m.flows(n, 5300) {
					if !before[f] {
						sent = f
						return nil
					}
				}
				return fmt.Errorf("no flow to %s", to)
			}))
			return sent
		}
		port := func(hostIP netip.Addr, containerPort uint16) []Element {
			return []Element{{Mapping{HostIP: hostIP, HostPort: 5300, ContainerPort: containerPort, Protocol: UDP}, n.pods[0]}}
		}
		m.track()
		unmapped, second := send(m.outside, n.host), send(m.outside, n.secondHost)
		forwarded := send(m.pods[1], n.outside)
		m.transact(each(table().AddElements, m.pod(0, port(netip.Addr{}, 53)[0].Mapping).elements())...)
		mapped := send(m.outside, n.host)
		m.expectFlows(n, "at first", unmapped, second, forwarded, mapped)
		for _, step := range []struct {
			when   string
			forget func() error
			left   []flow
		}{
			{"one address opens the port", func() error { return deleteFlowsToHost(port(n.host, 53)) }, []flow{second, forwarded, mapped}},
			{"another port of the pod is closed", func() error { return deleteFlowsToPods(port(netip.Addr{}, 54)) }, []flow{second, forwarded, mapped}},
			{"the pod's port is closed", func() error { return deleteFlowsToPods(port(netip.Addr{}, 53)) }, []flow{second, forwarded}},
			{"all addresses open the port", func() error { return deleteFlowsToHost(port(netip.Addr{}, 53)) }, []flow{forwarded}},
			{"all addresses open the port again", func() error { return deleteFlowsToHost(port(netip.Addr{}, 53)) }, []flow{forwarded}},
		} {
			must(t, m.host.Do(step.forget))
			m.expectFlows(n, step.when, step.left...)
		}
	})
}

func (m *machine) expectFlows(n network, when string, want ...flow) {
	m.t.Helper()
	got := m.flows(n, 5300)
	same := len(got) == len(want)
	for _, f := range want {
		same = same && got[f]
	}
	if !same {
		m.t.Errorf("%s: flows %v, want %v", when, got, want)
	}
}
