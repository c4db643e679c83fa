package firewall_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/pkg/firewall"
)

// patience is how long a test waits for a packet that should come at once.
const patience = 30 * time.Second

// addresses are those of one family in the tests of what packets meet.
type addresses struct {
	family, bits, any            string
	ownSubnet, gateway, pod      string
	pod2                         string
	ownSubnetOfHost              string // an address of the own subnet that the host has
	uplink, outside, uplinkBits  string
	exempt, peerPod, otherSource string
	behindBridge                 string
	exemptSubnet, peerSubnet     string
}

func bothFamilies() []addresses {
	return []addresses{{
		family: "IPv4", bits: "/32", any: "0.0.0.0/0",
		ownSubnet: "10.244.1.0/24", gateway: "10.244.1.1", pod: "10.244.1.2", pod2: "10.244.1.3",
		ownSubnetOfHost: "10.244.1.77",
		uplink:          "192.0.2.1", outside: "192.0.2.2", uplinkBits: "/24",
		exempt: "198.51.100.9", peerPod: "10.244.2.9", otherSource: "172.20.0.1",
		behindBridge: "203.0.113.9",
		exemptSubnet: "198.51.100.0/24", peerSubnet: "10.244.2.0/24",
	}, {
		family: "IPv6", bits: "/128", any: "::/0",
		ownSubnet: "fd00:1::/64", gateway: "fd00:1::1", pod: "fd00:1::2", pod2: "fd00:1::3",
		ownSubnetOfHost: "fd00:1::77",
		uplink:          "2001:db8::1", outside: "2001:db8::2", uplinkBits: "/64",
		exempt: "fd99::9", peerPod: "fd00:2::9", otherSource: "fd20::1",
		behindBridge: "fd77::9",
		exemptSubnet: "fd99::/64", peerSubnet: "fd00:2::/64",
	}}
}

func (a addresses) config() firewall.Config {
	return firewall.Config{
		Own: prefixes(a.ownSubnet), Network: prefixes(a.ownSubnet, a.peerSubnet),
		NoMasqueradeTo: prefixes(a.exemptSubnet), Masquerade: true, Bridge: "cni0", Tunnel: testTunnel(),
	}
}

// segment is a pod, the host it is on, and what is outside.
type segment struct {
	pod, outside sandboxtest.Space
	host         host
}

// newSegment joins them in a row. Outside knows the way back to every address,
// so that a packet whose source was not rewritten is answered as well.
func newSegment(t *testing.T, a addresses) segment {
	t.Helper()
	s := segment{pod: sandboxtest.NewSpace(t), host: newHost(t), outside: sandboxtest.NewSpace(t)}
	s.host.Join("cni0", s.pod, "eth0")
	s.host.Join("eth0", s.outside, "eth0")

	s.pod.Up("eth0", a.pod+a.bits)
	s.pod.Up("lo", a.behindBridge+a.bits)
	s.pod.Route(a.any, a.gateway, "eth0")

	s.host.Up("cni0", a.gateway+a.bits)
	s.host.Up("lo", a.ownSubnetOfHost+a.bits, a.otherSource+a.bits)
	s.host.Up("eth0", a.uplink+a.uplinkBits)
	s.host.Route(a.ownSubnet, "", "cni0")
	s.host.Route(a.behindBridge+a.bits, a.pod, "cni0")
	s.host.Route(a.exemptSubnet, a.outside, "eth0")
	s.host.Route(a.peerSubnet, a.outside, "eth0")

	s.outside.Up("eth0", a.outside+a.uplinkBits)
	s.outside.Up("lo", a.exempt+a.bits, a.peerPod+a.bits)
	s.outside.Route(a.any, a.uplink, "eth0")
	return s
}

func (s segment) sync(t *testing.T, c firewall.Config) {
	t.Helper()
	s.host.T = t
	s.host.sync(desired(t, c))
}

// call is a connection: who calls whom.
type call struct {
	client, server sandboxtest.Space
	from, to       string
}

// sourceSeen is the address that the server sees the client call from.
func (c call) sourceSeen(t *testing.T) string {
	t.Helper()
	var listener net.Listener
	c.server.In(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(c.to, "0"))
		return err
	})
	defer listener.Close()
	c.client.In(func() error {
		dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(c.from)}}
		conn, err := dialer.Dial("tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		return conn.Close()
	})
	conn, err := listener.Accept() // the connection is there already
	must(t, err)
	defer conn.Close()
	return netip.MustParseAddrPort(conn.RemoteAddr().String()).Addr().String()
}

func TestMasquerading(t *testing.T) {
	t.Parallel()
	for _, a := range bothFamilies() {
		t.Run(a.family, func(t *testing.T) {
			t.Parallel()
			s := newSegment(t, a)
			off := a.config()
			off.Masquerade = false
			for _, tc := range []struct {
				name   string
				config firewall.Config
				call   call
				want   string
			}{
				{"to the outside", a.config(), call{s.pod, s.outside, a.pod, a.outside}, a.uplink},
				{"to where it is not wanted", a.config(), call{s.pod, s.outside, a.pod, a.exempt}, a.pod},
				{"to a pod of another node", a.config(), call{s.pod, s.outside, a.pod, a.peerPod}, a.pod},
				{"from an address that is no pod's", a.config(),
					call{s.host.Space, s.outside, a.otherSource, a.outside}, a.otherSource},
				{"out of the bridge", a.config(),
					call{s.host.Space, s.pod, a.ownSubnetOfHost, a.behindBridge}, a.ownSubnetOfHost},
				{"off", off, call{s.pod, s.outside, a.pod, a.outside}, a.pod},
			} {
				t.Run(tc.name, func(t *testing.T) {
					s.sync(t, tc.config)
					if got := tc.call.sourceSeen(t); got != tc.want {
						t.Errorf("the server saw %s call, want %s", got, tc.want)
					}
				})
			}
		})
	}
}

// Without the table the host sends redirects; otherwise the test would prove nothing.
// Each case has hosts of its own, because the kernel limits the rate of redirects.
// Masquerading is off, because with it the kernel itself drops the first redirect of
// an IPv4 connection, but not the later ones.
func TestPodsGetNoRedirects(t *testing.T) {
	t.Parallel()
	for _, a := range bothFamilies() {
		config := a.config()
		config.Masquerade = false
		for _, tc := range []struct {
			name  string
			table *nft.Table
			some  bool
		}{
			{"without the table", nil, true},
			{"with the table", desired(t, config), false},
		} {
			t.Run(a.family+" "+tc.name, func(t *testing.T) {
				t.Parallel()
				host, pods := newBridge(t, a)
				host.sync(tc.table)
				exchange(t, call{pods[0], pods[1], a.pod, a.pod2})
				if got := redirectsReceived(t, pods[0]); (got > 0) != tc.some {
					t.Errorf("the pod got %d redirects, want some: %t", got, tc.some)
				}
			})
		}
	}
}

// newBridge makes a host with a bridge and two pods on it, whose traffic to
// each other is routed.
func newBridge(t *testing.T, a addresses) (host, [2]sandboxtest.Space) {
	t.Helper()
	host, pods := newHost(t), [2]sandboxtest.Space{sandboxtest.NewSpace(t), sandboxtest.NewSpace(t)}
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = "cni0"
	must(t, host.Netlink.LinkAdd(bridge))
	host.Up("cni0", a.gateway+a.bits)
	host.Route(a.ownSubnet, "", "cni0")
	for i, address := range []string{a.pod, a.pod2} {
		port := fmt.Sprintf("veth%d", i)
		host.Join(port, pods[i], "eth0")
		must(t, host.Netlink.LinkSetMaster(host.Link(port), bridge))
		host.Up(port)
		pods[i].Up("eth0", address+a.bits)
		pods[i].Route(a.any, a.gateway, "eth0")
	}
	return host, pods
}

// exchange sends a few packets there and back, each after the one before came.
func exchange(t *testing.T, c call) {
	t.Helper()
	var client net.Conn
	var listener net.PacketConn
	c.server.In(func() (err error) {
		listener, err = net.ListenPacket("udp", net.JoinHostPort(c.to, "0"))
		return err
	})
	defer listener.Close()
	c.client.In(func() (err error) {
		dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(c.from)}}
		client, err = dialer.Dial("udp", listener.LocalAddr().String())
		return err
	})
	defer client.Close()
	deadline := time.Now().Add(patience)
	must(t, listener.SetDeadline(deadline))
	must(t, client.SetDeadline(deadline))
	buffer := make([]byte, 16)
	for range 5 {
		_, err := client.Write([]byte("ping"))
		must(t, err)
		_, from, err := listener.ReadFrom(buffer)
		must(t, err)
		_, err = listener.WriteTo([]byte("pong"), from)
		must(t, err)
		_, err = client.Read(buffer)
		must(t, err)
	}
}

// redirectsReceived counts those of both families that came to the namespace.
func redirectsReceived(t *testing.T, s sandboxtest.Space) int {
	t.Helper()
	var snmp, snmp6 []byte
	s.In(func() (err error) {
		if snmp, err = os.ReadFile("/proc/thread-self/net/snmp"); err != nil {
			return err
		}
		snmp6, err = os.ReadFile("/proc/thread-self/net/snmp6")
		return err
	})
	v4, err := snmpCounter(snmp, "Icmp:", "InRedirects")
	must(t, err)
	v6, err := snmp6Counter(snmp6, "Icmp6InRedirects")
	must(t, err)
	return v4 + v6
}

// snmpCounter reads a counter of /proc/net/snmp: two lines for each protocol,
// the names and the numbers.
func snmpCounter(snmp []byte, protocol, name string) (int, error) {
	var names []string
	for lines := bufio.NewScanner(bytes.NewReader(snmp)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if fields[0] != protocol {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, n := range names {
			if n == name {
				return strconv.Atoi(fields[i])
			}
		}
	}
	return 0, fmt.Errorf("/proc/net/snmp has no %s %s", protocol, name)
}

// snmp6Counter reads a counter of /proc/net/snmp6: a name and a number a line.
func snmp6Counter(snmp6 []byte, name string) (int, error) {
	for lines := bufio.NewScanner(bytes.NewReader(snmp6)); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); fields[0] == name {
			return strconv.Atoi(fields[1])
		}
	}
	return 0, fmt.Errorf("/proc/net/snmp6 has no %s", name)
}
