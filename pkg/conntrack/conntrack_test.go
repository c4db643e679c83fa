package conntrack

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// addresses are the same hosts in both families.
type addresses struct{ client, host, pod netip.Addr }

func eachFamily(t *testing.T, do func(*testing.T, addresses)) {
	a := netip.MustParseAddr
	t.Run("IPv4", func(t *testing.T) { do(t, addresses{a("192.0.2.1"), a("192.0.2.2"), a("10.244.1.2")}) })
	t.Run("IPv6", func(t *testing.T) { do(t, addresses{a("2001:db8::1"), a("2001:db8::2"), a("fd00::2")}) })
}

// add adds a flow to port 53 of the host that another address answers.
func (a addresses) add(h *netlink.Handle, protocol uint8, from uint16, answerer netip.AddrPort) error {
	f := family.Of(a.host)
	flow := &netlink.ConntrackFlow{
		FamilyType: uint8(f), TimeOut: 1000,
		Forward: netlink.IPTuple{SrcIP: a.client.AsSlice(), DstIP: a.host.AsSlice(), SrcPort: from, DstPort: 53, Protocol: protocol},
		Reverse: netlink.IPTuple{SrcIP: answerer.Addr().AsSlice(), DstIP: a.client.AsSlice(), SrcPort: answerer.Port(), DstPort: from, Protocol: protocol},
	}
	if protocol == unix.IPPROTO_TCP {
		flow.ProtoInfo = &netlink.ProtoInfoTCP{State: 3}
	}
	return h.ConntrackCreate(netlink.ConntrackTable, netlink.InetFamily(f), flow)
}

// left are the source ports of the flows that are there, sorted.
func (a addresses) left(t *testing.T, ns *sandbox.Netns) []uint16 {
	t.Helper()
	var ports []uint16
	sandboxtest.Do(t, ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		flows, err := h.ConntrackTableList(netlink.ConntrackTable, netlink.InetFamily(family.Of(a.host)))
		for _, f := range flows {
			ports = append(ports, f.Forward.SrcPort)
		}
		return err
	})
	slices.Sort(ports)
	return ports
}

// Flows of whatever protocol end with either of their ends.
func TestDeleteOf(t *testing.T) {
	eachFamily(t, func(t *testing.T, a addresses) {
		for _, tc := range []struct {
			name string
			of   netip.Addr
			left []uint16
		}{
			{"who answers", a.pod, []uint16{1}},
			{"who calls", a.client, nil},
			{"an alias of who answers", netip.MustParseAddr("192.0.2.77"), []uint16{1, 2, 3}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				ns := sandboxtest.NewNetns(t)
				sandboxtest.Do(t, ns, func() error {
					h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
					if err != nil {
						return err
					}
					defer h.Close()
					return errors.Join(
						a.add(h, unix.IPPROTO_UDP, 1, netip.AddrPortFrom(a.host, 53)),
						a.add(h, unix.IPPROTO_UDP, 2, netip.AddrPortFrom(a.pod, 5300)),
						a.add(h, unix.IPPROTO_TCP, 3, netip.AddrPortFrom(a.pod, 5300)),
						DeleteOf([]netip.Addr{tc.of, netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("fd09::9")}))
				})
				if left := a.left(t, ns); !slices.Equal(left, tc.left) {
					t.Errorf("flows %v are left, want %v", left, tc.left)
				}
			})
		}
		// Where nothing is tracked.
		sandboxtest.Do(t, sandboxtest.NewNetns(t), func() error { return DeleteOf([]netip.Addr{a.pod}) })
	})
}

func TestDelete(t *testing.T) {
	eachFamily(t, func(t *testing.T, a addresses) {
		at := netip.AddrPortFrom
		for _, tc := range []struct {
			name string
			flow UDP
			left []uint16
		}{
			{"to the host itself", UDP{To: at(a.host, 53), Answerer: at(a.host, 0)}, []uint16{2, 3, 4}},
			{"to the host itself, another port answers", UDP{To: at(a.host, 53), Answerer: at(a.host, 54)}, []uint16{1, 2, 3, 4}},
			{"led to the pod", UDP{To: at(netip.Addr{}, 53), Answerer: at(a.pod, 5300)}, []uint16{1, 3, 4}},
			{"led to the pod, from one address", UDP{To: at(a.host, 53), Answerer: at(a.pod, 5300)}, []uint16{1, 3, 4}},
			{"led to the pod, any port", UDP{To: at(a.host, 53), Answerer: at(a.pod, 0)}, []uint16{1, 4}},
			{"to another address", UDP{To: at(a.client, 53), Answerer: at(a.pod, 5300)}, []uint16{1, 2, 3, 4}},
			{"to another port", UDP{To: at(a.host, 54), Answerer: at(a.pod, 5300)}, []uint16{1, 2, 3, 4}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				ns := sandboxtest.NewNetns(t)
				sandboxtest.Do(t, ns, func() error {
					h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
					if err != nil {
						return err
					}
					defer h.Close()
					for i, f := range []struct {
						protocol uint8
						answerer netip.AddrPort
					}{
						{unix.IPPROTO_UDP, at(a.host, 53)}, {unix.IPPROTO_UDP, at(a.pod, 5300)},
						{unix.IPPROTO_UDP, at(a.pod, 5301)}, {unix.IPPROTO_TCP, at(a.pod, 5300)},
					} {
						if err := a.add(h, f.protocol, uint16(i+1), f.answerer); err != nil {
							return err
						}
					}
					return Delete(tc.flow)
				})
				if left := a.left(t, ns); !slices.Equal(left, tc.left) {
					t.Errorf("flows %v are left, want %v", left, tc.left)
				}
			})
		}
	})
}
