package hostport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// call is somebody who calls a port of the host.
type call struct {
	name string
	from *sandbox.Netns
	to   netip.Addr
	// sees is the caller's address as the pod sees it. The zero Addr means that nobody
	// answers.
	sees netip.Addr
}

// callers returns all ways to call a port of pod 0, each with the caller's address as
// the pod sees it.
func (m *machine) callers(n network) []call {
	calls := []call{
		{"from outside", m.outside, n.host, n.outside},
		{"from outside to another address of the host", m.outside, n.secondHost, n.outside},
		{"from the host", m.host, n.host, n.host},
		{"from the host to the pods' gateway", m.host, n.gateway.Addr(), n.gateway.Addr()},
		{"from the pod itself", m.pods[0], n.host, n.gateway.Addr()},
		{"from the pod itself to its gateway", m.pods[0], n.gateway.Addr(), n.gateway.Addr()},
		{"from another pod", m.pods[1], n.host, n.pods[1]},
		{"from another pod to its gateway", m.pods[1], n.gateway.Addr(), n.pods[1]},
		{"from the host over localhost", m.host, n.localhost, n.gateway.Addr()},
	}
	if n.localhost.Is6() {
		// The kernel can't, and says so at once: a client that tried ::1 first
		// goes on to 127.0.0.1.
		calls[len(calls)-1].sees = netip.Addr{}
	}
	return calls
}

// eachNetwork runs a test with the addresses of each family. The tests run side by
// side, so each needs a machine of its own.
func eachNetwork(t *testing.T, do func(*testing.T, network)) {
	for _, n := range networks() {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			do(t, n)
		})
	}
}

// mirror serves TCP in a pod.
func (m *machine) mirror(pod int, n network, port uint16) {
	m.t.Helper()
	s, err := probe.ServeMirror(m.pods[pod], netip.AddrPortFrom(n.pods[pod], port))
	must(m.t, err)
	m.t.Cleanup(func() { _ = s.Close() })
}

// echo serves UDP in a namespace.
func (m *machine) echo(ns *sandbox.Netns, at netip.AddrPort) {
	m.t.Helper()
	s, err := probe.ServeEcho(ns, at)
	must(m.t, err)
	m.t.Cleanup(func() { _ = s.Close() })
}

// webPort is the host port that every test of TCP maps.
const webPort = 8080

func (c call) tcp(t *testing.T) {
	t.Helper()
	wait := patience
	if !c.sees.IsValid() {
		wait = brief
	}
	seen, err := probe.TCP(within(t, wait), c.from, netip.AddrPortFrom(c.to, webPort))
	switch {
	case !c.sees.IsValid() && err == nil:
		t.Errorf("TCP %s: somebody answered, who saw %s", c.name, seen.Source)
	case c.sees.IsValid() && err != nil:
		t.Errorf("TCP %s: %v", c.name, err)
	case seen.Source.Addr() != c.sees:
		t.Errorf("TCP %s: the pod saw %s, want %s", c.name, seen.Source.Addr(), c.sees)
	}
}

func (c call) udp(t *testing.T, port uint16) {
	t.Helper()
	wait := patience
	if !c.sees.IsValid() {
		wait = brief
	}
	_, err := probe.UDP(within(t, wait), c.from, netip.AddrPortFrom(c.to, port))
	if (err == nil) != c.sees.IsValid() {
		t.Errorf("UDP %s: answered %t, want %t (%v)", c.name, err == nil, c.sees.IsValid(), err)
	}
}

func TestEveryWayToAHostPort(t *testing.T) {
	t.Parallel()
	for _, w := range []wiring{routed(), switched()} {
		if _, err := sysctl.Get("net/bridge/bridge-nf-call-iptables"); err != nil && w.switched {
			t.Log("br_netfilter isn't loaded: nothing is tested with it: ", err)
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			m := newMachineOn(t, w)
			m.add(m.pod(0, Mapping{HostPort: 8080, ContainerPort: 80, Protocol: TCP}, Mapping{HostPort: 5300, ContainerPort: 53, Protocol: UDP}))
			for _, n := range networks() {
				m.mirror(0, n, 80)
				m.echo(m.pods[0], netip.AddrPortFrom(n.pods[0], 53))
				for _, c := range m.callers(n) {
					c.name = n.name + ", " + c.name
					c.tcp(t)
					c.udp(t, 5300)
				}
			}
		})
	}
}

// A client that tries ::1 first, from where no pod can be reached, is refused at once and
// goes on to 127.0.0.1; and what the host itself serves on ::1 stays reachable.
func TestIPv6LocalhostStaysTheHosts(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.add(m.pod(0, Mapping{HostPort: 8080, ContainerPort: 80, Protocol: TCP}))
	at := netip.AddrPortFrom(netip.IPv6Loopback(), 8080)
	_, err := probe.TCP(within(t, patience), m.host, at)
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("error %v, want %v", err, unix.ECONNREFUSED)
	}
	s, err := probe.ServeMirror(m.host, at)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	_, err = probe.TCP(within(t, patience), m.host, at)
	must(t, err)
}

// A client that has another address than ::1 reaches a pod by ::1, which
// Kubernetes' conformance tests want of clusters with IPv6 alone.
func TestIPv6LocalhostFromAnotherAddress(t *testing.T) {
	t.Parallel()
	for name, hostIP := range map[string]netip.Addr{"port of all addresses": {}, "port of ::1": netip.IPv6Loopback()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			n := networks()[1]
			m.mirror(0, n, 80)
			m.add(m.pod(0, Mapping{HostIP: hostIP, HostPort: 8080, ContainerPort: 80, Protocol: TCP}))
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: n.host.AsSlice()}}
			must(t, m.host.Do(func() error {
				conn, err := dialer.DialContext(within(t, patience), "tcp", netip.AddrPortFrom(n.localhost, 8080).String())
				if err != nil {
					return err
				}
				return conn.Close()
			}))
		})
	}
}

// Without the table, and after a Delete, no caller reaches the pod; otherwise the test
// above would prove nothing.
func TestNoWayWithout(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	p := m.pod(0, Mapping{HostPort: 8080, ContainerPort: 80, Protocol: TCP}, Mapping{HostPort: 5300, ContainerPort: 53, Protocol: UDP})
	for _, n := range networks() {
		m.mirror(0, n, 80)
		m.echo(m.pods[0], netip.AddrPortFrom(n.pods[0], 53))
	}
	closed := func(when string) {
		for _, n := range networks() {
			for _, c := range m.callers(n) {
				c.name, c.sees = fmt.Sprintf("%s, %s, %s", n.name, c.name, when), netip.Addr{}
				c.tcp(t)
				c.udp(t, 5300)
			}
		}
	}
	closed("before")
	m.add(p)
	m.delete(p)
	closed("after")
}

// An address of the host in a mapping is the only one that has the port, and a
// port of one address goes before the same port of all.
func TestHostIP(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, n network) {
		for _, tc := range []struct {
			name                    string
			hostIP                  netip.Addr
			host, second, localhost bool
		}{
			{"one address", n.secondHost, false, true, false},
			{"all of the family", unspecified(n.host), true, true, n.host.Is4()},
			{"localhost", netip.MustParseAddr("127.0.0.1"), false, false, n.host.Is4()},
		} {
			t.Run(tc.name, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t)
				m.add(m.pod(0, Mapping{HostPort: 8080, ContainerPort: 80, Protocol: TCP, HostIP: tc.hostIP}))
				m.mirror(0, n, 80)
				for _, c := range []struct {
					call
					open bool
				}{
					{call{"to the address", m.outside, n.host, n.outside}, tc.host},
					{call{"to the second address", m.outside, n.secondHost, n.outside}, tc.second},
					{call{"from the host to the second address", m.host, n.secondHost, n.fromSecond}, tc.second},
					{call{"from a pod to the second address", m.pods[1], n.secondHost, n.pods[1]}, tc.second},
					{call{"over localhost", m.host, n.localhost, n.gateway.Addr()}, tc.localhost},
				} {
					if !c.open {
						c.sees = netip.Addr{}
					}
					c.tcp(t)
				}
			})
		}
	})
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func TestOneAddressGoesBeforeAll(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, n network) {
		m := newMachine(t)
		m.add(m.pod(0, Mapping{HostPort: 8080, ContainerPort: 80, Protocol: TCP}))
		m.add(m.pod(1, Mapping{HostPort: 8080, ContainerPort: 81, Protocol: TCP, HostIP: n.secondHost}))
		m.mirror(1, n, 81) // pod 0 serves nothing
		call{"to the second address", m.outside, n.secondHost, n.outside}.tcp(t)
		call{"to the first address", m.outside, n.host, netip.Addr{}}.tcp(t)
	})
}

// Ports of others that pods or the host call have the same number.
func TestPortsOfOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, n network) {
		m := newMachine(t)
		// Outside has no way back to pods.
		o := handle(t, m.outside)
		l, err := o.LinkByName("eth0")
		must(t, err)
		for _, p := range n.pods {
			must(t, o.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(netip.PrefixFrom(p, p.BitLen())), Gw: n.host.AsSlice()}))
		}
		m.add(m.pod(0, Mapping{HostPort: 5300, ContainerPort: 53, Protocol: UDP}))
		m.echo(m.outside, netip.AddrPortFrom(n.outside, 5300))
		call{"from a pod", m.pods[1], n.outside, n.pods[1]}.udp(t, 5300)
		call{"from the pod", m.pods[0], n.outside, n.pods[0]}.udp(t, 5300)
		call{"from the host", m.host, n.outside, n.host}.udp(t, 5300)
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// TestLocalhostIsClosedToPods lets a pod that may do everything in its own
// namespace send to the host's 127.0.0.1, and as 127.0.0.2. Without the rules
// it gets through, or the test would prove nothing.
func TestLocalhostIsClosedToPods(t *testing.T) {
	t.Parallel()
	n := networks()[0]
	m := newMachine(t)
	m.add(m.pod(0, Mapping{HostPort: 8080, ContainerPort: 80, Protocol: TCP}))
	m.echo(m.host, netip.AddrPortFrom(n.localhost, 9000))
	m.sendLocalhostOut(m.pods[1], n)
	attack := call{"to a service on the host's localhost", m.pods[1], n.localhost, n.pods[1]}

	m.transact(table().FlushChain("localnet"))
	attack.udp(t, 9000)
	if !m.hearsLocalhost(n, patience) {
		t.Error("without the rules a pod can't send as 127.0.0.2")
	}
	m.sync(func() (Want, error) { return Want{Bridge: bridgeName}, nil })
	attack.sees = netip.Addr{}
	attack.udp(t, 9000)
	attack.tcp(t)
	if m.hearsLocalhost(n, brief) {
		t.Error("a pod can send as 127.0.0.2")
	}
}

// sendLocalhostOut makes a pod send packets for 127.0.0.0/8 to its gateway.
func (m *machine) sendLocalhostOut(ns *sandbox.Netns, n network) {
	m.t.Helper()
	sandboxtest.Do(m.t, ns, func() error {
		_, err := sysctl.Sync([]sysctl.Parameter{{Path: "net/ipv4/conf/eth0/route_localnet", Value: "1"}})
		return err
	})
	h := handle(m.t, ns)
	lo, err := h.LinkByName("lo")
	must(m.t, err)
	must(m.t, h.AddrDel(lo, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("127.0.0.1/8"))}))
	must(m.t, h.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("127.0.0.2/32"))}))
	eth, err := h.LinkByName("eth0")
	must(m.t, err)
	must(m.t, h.RouteAdd(&netlink.Route{
		LinkIndex: eth.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("127.0.0.0/8")),
		Gw: n.gateway.Addr().AsSlice(), Flags: int(netlink.FLAG_ONLINK),
	}))
}

// hearsLocalhost tells whether the host gets what pod 1 sends as 127.0.0.2. It
// is not 127.0.0.1, which the kernel refuses for being the host's own.
func (m *machine) hearsLocalhost(n network, wait time.Duration) bool {
	m.t.Helper()
	var server *net.UDPConn
	sandboxtest.Do(m.t, m.host, func() (err error) {
		server, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.host, 0)))
		return err
	})
	defer server.Close()
	sandboxtest.Do(m.t, m.pods[1], func() error {
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.2:0"))}
		c, err := d.Dial("udp4", server.LocalAddr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("hello"))
		return err
	})
	deadline, _ := within(m.t, wait).Deadline()
	must(m.t, server.SetReadDeadline(deadline))
	_, _, err := server.ReadFrom(make([]byte, 16))
	return err == nil
}

// sticky is a UDP client that keeps its port, as a log shipper does.
type sticky struct {
	conn *net.UDPConn
}

func (m *machine) sticky(from *sandbox.Netns, to netip.AddrPort) sticky {
	m.t.Helper()
	var c *net.UDPConn
	sandboxtest.Do(m.t, from, func() (err error) {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	})
	m.t.Cleanup(func() { _ = c.Close() })
	return sticky{c}
}

// answered tells whether one of a few packets is answered.
func (s sticky) answered(ctx context.Context) error {
	return probe.Eventually(ctx, func(ctx context.Context) error {
		deadline, _ := ctx.Deadline()
		if err := s.conn.SetDeadline(deadline); err != nil {
			return err
		}
		if _, err := s.conn.Write([]byte("hello")); err != nil {
			return err
		}
		_, err := s.conn.Read(make([]byte, 16))
		return err
	})
}

// A client that goes on sending is led to the pod that has the port now. With
// an old entry of the connection tracking it would talk to nobody for ever.
func TestStaleUDP(t *testing.T) {
	t.Parallel()
	eachNetwork(t, func(t *testing.T, n network) {
		m := newMachine(t)
		m.track()
		mapping := Mapping{HostPort: 5300, ContainerPort: 53, Protocol: UDP}
		m.echo(m.pods[1], netip.AddrPortFrom(n.pods[1], 53)) // pod 0 serves nothing
		for name, c := range map[string]sticky{
			"from outside": m.sticky(m.outside, netip.AddrPortFrom(n.host, 5300)),
			"from a pod":   m.sticky(m.pods[1], netip.AddrPortFrom(n.gateway.Addr(), 5300)),
		} {
			if err := c.answered(within(t, brief)); err == nil {
				t.Fatalf("%s: answered without a mapping", name)
			}
			m.add(m.pod(0, mapping))
			if err := c.answered(within(t, brief)); err == nil {
				t.Fatalf("%s: answered by a pod that does not serve", name)
			}
			m.delete(m.pod(0, mapping))
			m.add(m.pod(1, mapping))
			if err := c.answered(within(t, patience)); err != nil {
				t.Errorf("%s: after a change of the pod: %v", name, err)
			}
			m.delete(m.pod(1, mapping))
		}
	})
}

// track makes the table, empty. Without nat chains there is no connection tracking.
func (m *machine) track() {
	m.t.Helper()
	inside(m.t, m.host, (*Kernel).repair)
}

// The host's kernel needs no SCTP for the table to have it.
func TestSCTPElement(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	p := m.pod(0, Mapping{HostPort: 3868, ContainerPort: 3869, Protocol: SCTP})
	m.add(p)
	inside(t, m.host, func(k *Kernel) error {
		_, found, err := k.conn.Find(table(), p.elements())
		if got := decodeAll(found); len(got) != 2 || got[0].String() != "3868:3869/sctp" || got[0].Protocol != SCTP {
			err = errors.Join(err, fmt.Errorf("the table has %v", got))
		}
		return err
	})
}

// transact changes the host's rules, as somebody else would.
func (m *machine) transact(ops ...nft.Op) {
	m.t.Helper()
	inside(m.t, m.host, func(k *Kernel) error { return k.conn.Commit(nft.AnyGeneration, ops...) })
}
