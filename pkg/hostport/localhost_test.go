package hostport

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// door is a way by which somebody sends to a loopback address of the host, or from
// one.
type door struct {
	name     string
	from     *sandbox.Netns
	src, dst netip.Addr
	// open says that packets pass without the rules of chain localnet; otherwise the
	// kernel itself drops them.
	open bool
}

func (m *machine) doors(n network) []door {
	is4 := n.host.Is4()
	other := map[bool]netip.Addr{true: netip.MustParseAddr("127.0.0.5"), false: netip.IPv6Loopback()}[is4]
	return []door{
		{"a neighbour sends to it", m.outside, n.outside, n.localhost, is4},
		{"a neighbour sends from it", m.outside, other, n.host, is4},
		{"a pod sends to it", m.pods[1], n.pods[1], n.localhost, is4},
		// The kernel checks sources where a packet leaves by the link that it came by.
		{"a pod sends from it", m.pods[1], other, n.host, false},
	}
}

// A host port of 127.0.0.1 is for the host itself, whoever else sends to that address
// by the host's MAC address. The sysctl is what kube-proxy sets: with it, the kernel
// lets addresses of 127.0.0.0/8 in on every link.
func TestLocalhostIsForTheHostItself(t *testing.T) {
	t.Parallel()
	protocols := map[Protocol]byte{TCP: unix.IPPROTO_TCP, UDP: unix.IPPROTO_UDP, SCTP: unix.IPPROTO_SCTP}
	for _, n := range networks() {
		for protocol, number := range protocols {
			t.Run(n.name+" "+string(protocol), func(t *testing.T) {
				t.Parallel()
				m := newMachine(t)
				sandboxtest.Do(t, m.host, func() error {
					_, err := sysctl.Sync([]sysctl.Parameter{{Path: "net/ipv4/conf/all/route_localnet", Value: "1"}})
					return err
				})
				m.add(m.pod(0, Mapping{HostPort: 8080, ContainerPort: 80, Protocol: protocol}))
				for _, d := range m.doors(n) {
					m.transact(table().FlushChain("localnet"))
					if got := m.passes(d, number, n); got != d.open {
						t.Errorf("%s: passes without the rules: %t, want %t", d.name, got, d.open)
					}
					m.sync(func() (Want, error) {
						return Want{Bridge: bridgeName, Pods: []Pod{m.pod(0, Mapping{HostPort: 8080, ContainerPort: 80, Protocol: protocol})}}, nil
					})
					if m.passes(d, number, n) {
						t.Errorf("%s: passes", d.name)
					}
				}
			})
		}
	}
}

// passes reports whether pod 0 gets what is sent through the door. A packet to the
// host's own address follows, which must arrive, so nothing is waited for in vain.
func (m *machine) passes(d door, protocol byte, n network) bool {
	m.t.Helper()
	link, honest := "uplink", n.outside
	if d.from != m.outside {
		link, honest = bridgeName, n.pods[1]
	}
	l, err := handle(m.t, m.host).LinkByName(link)
	must(m.t, err)
	wire, err := probe.Tap(m.pods[0], "eth0")
	must(m.t, err)
	defer wire.Close()
	m.doorsTried++
	attack := probe.Packet{Protocol: protocol, Src: netip.AddrPortFrom(d.src, m.doorsTried), Dst: netip.AddrPortFrom(d.dst, 8080)}
	control := probe.Packet{Protocol: protocol, Src: netip.AddrPortFrom(honest, 1000+m.doorsTried), Dst: netip.AddrPortFrom(n.host, 8080)}
	for ctx := within(m.t, patience); ctx.Err() == nil; {
		must(m.t, probe.Inject(d.from, "eth0", net.HardwareAddr(l.Attrs().HardwareAddr), attack, control))
		passed := false
		for packet := wire.Next(); packet != nil; packet = wire.Next() {
			switch from, to := ports(packet, family.Of(n.host)); {
			case to != 80: // an answer
			case from == control.Src.Port():
				return passed
			default:
				passed = true
			}
		}
	}
	m.t.Fatalf("%s: not even a packet to the host's address arrives", d.name)
	return false
}

// ports are those of an IP packet.
func ports(packet []byte, f family.Family) (from, to uint16) {
	header := 20
	if f == family.IPv6 {
		header = 40
	}
	if len(packet) < header+4 {
		return 0, 0
	}
	return binary.BigEndian.Uint16(packet[header:]), binary.BigEndian.Uint16(packet[header+2:])
}
