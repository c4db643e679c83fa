package iptables

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/family"
)

// patience is how long a test waits for a packet that should come at once, and
// glance for one that should not come: the first is not sent again within it.
const (
	patience = 30 * time.Second
	glance   = 100 * time.Millisecond
)

// addresses are those of one family.
type addresses struct {
	bits, any, ownSubnet, peerSubnet, containers       string
	gateway, pod, peerPod, container, uplink, outside  string
	exempt, otherSource, dockerGateway, tunnel, remote string
}

func addressesOf(f family.Family) addresses {
	if f == family.IPv4 {
		return addresses{
			bits: "/32", any: "0.0.0.0/0", ownSubnet: "10.244.1.0/24", peerSubnet: "10.244.2.0/24", containers: "172.17.0.0/16",
			gateway: "10.244.1.1", pod: "10.244.1.2", peerPod: "10.244.2.9", container: "172.17.0.2",
			uplink: "192.0.2.1", outside: "192.0.2.2", exempt: "198.51.100.9", otherSource: "172.20.0.1",
			dockerGateway: "172.17.0.1", tunnel: "10.244.1.0", remote: "10.244.2.0",
		}
	}
	return addresses{
		bits: "/128", any: "::/0", ownSubnet: "fd00:1::/64", peerSubnet: "fd00:2::/64", containers: "fd17::/64",
		gateway: "fd00:1::1", pod: "fd00:1::2", peerPod: "fd00:2::9", container: "fd17::2",
		uplink: "2001:db8::1", outside: "2001:db8::2", exempt: "fd99::9", otherSource: "fd20::1",
		dockerGateway: "fd17::1", tunnel: "fd00:1::", remote: "fd00:2::",
	}
}

// neighbourhood is a host and what it forwards between: a pod, another host's
// pod behind the tunnel, a container of Docker's, and the outside.
type neighbourhood struct{ host, pod, peer, container, outside space }

func newNeighbourhood(t *testing.T, a addresses) neighbourhood {
	t.Helper()
	n := neighbourhood{newSpace(t), newSpace(t), newSpace(t), newSpace(t), newSpace(t)}
	for _, arm := range []struct {
		dev, here, there string
		to               space
		reach            []string
	}{
		{"cni0", a.gateway, a.pod, n.pod, []string{a.ownSubnet}},
		{"overlay0", a.tunnel, a.peerPod, n.peer, []string{a.peerSubnet}},
		{"docker0", a.dockerGateway, a.container, n.container, []string{a.containers}},
		{"eth0", a.uplink, a.outside, n.outside, []string{a.outside + a.bits, a.exempt + a.bits}},
	} {
		n.host.Join(arm.dev, arm.to.Space, "eth0")
		n.host.Up(arm.dev, arm.here+a.bits)
		arm.to.Up("eth0", arm.there+a.bits)
		arm.to.Route(a.any, arm.here, "eth0")
		n.host.Route(arm.there+a.bits, "", arm.dev)
		for _, to := range arm.reach {
			if to != arm.there+a.bits {
				n.host.Route(to, arm.there, arm.dev)
			}
		}
	}
	n.host.Up("lo", a.otherSource+a.bits)
	n.outside.Up("lo", a.exempt+a.bits)
	return n
}

// call is a connection: who calls whom.
type call struct {
	client, server space
	from, to       string
}

// sourceSeen is the address that the server sees the client call from, or "" if
// the client is not answered in time.
func (c call) sourceSeen(t *testing.T, wait time.Duration) string {
	t.Helper()
	var listener net.Listener
	c.server.In(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(c.to, "0"))
		return err
	})
	defer listener.Close()
	var conn net.Conn
	c.client.In(func() error {
		dialer := net.Dialer{Timeout: wait, LocalAddr: &net.TCPAddr{IP: net.ParseIP(c.from)}}
		conn, _ = dialer.Dial("tcp", listener.Addr().String())
		return nil
	})
	if conn == nil {
		return ""
	}
	defer conn.Close()
	served, err := listener.Accept() // the connection is there already
	must(t, err)
	defer served.Close()
	return netip.MustParseAddrPort(served.RemoteAddr().String()).Addr().String()
}

func TestWhatPassesDocker(t *testing.T) {
	t.Parallel()
	for _, v := range variants() {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			a := addressesOf(v.family)
			n := newNeighbourhood(t, a)
			cases := []struct {
				name   string
				call   call
				passes bool
			}{
				{"pod to pod of another host", call{n.pod, n.peer, a.pod, a.peerPod}, true},
				{"pod of another host to pod", call{n.peer, n.pod, a.peerPod, a.pod}, true},
				{"pod to the outside", call{n.pod, n.outside, a.pod, a.outside}, true},
				{"the outside to pod", call{n.outside, n.pod, a.outside, a.pod}, true},
				{"the outside to pod of another host", call{n.outside, n.peer, a.outside, a.peerPod}, true},
				{"pod of another host to the outside", call{n.peer, n.outside, a.peerPod, a.outside}, false},
				{"the outside to container", call{n.outside, n.container, a.outside, a.container}, false},
				{"pod of another host to container", call{n.peer, n.container, a.peerPod, a.container}, false},
			}
			n.host.restore(v, "filter", docker()...)
			for _, tc := range cases {
				if tc.call.sourceSeen(t, glance) != "" {
					t.Errorf("%s: passes without us, so this shows nothing", tc.name)
				}
			}
			n.host.mustSync(New(), forwarding(t))
			for _, tc := range cases {
				wait := glance
				if tc.passes {
					wait = patience
				}
				if got := tc.call.sourceSeen(t, wait); (got == tc.call.from) != tc.passes {
					t.Errorf("%s: seen from %q", tc.name, got)
				}
			}
		})
	}
}

// Other programs' rules come before ours, which only accepts what they leave.
func TestOthersRulesGoFirst(t *testing.T) {
	t.Parallel()
	for _, v := range variants() {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			a := addressesOf(v.family)
			n := newNeighbourhood(t, a)
			k, c := New(), call{n.pod, n.outside, a.pod, a.outside}
			n.host.restore(v, "filter", docker()...)
			n.host.mustSync(k, forwarding(t))
			if c.sourceSeen(t, patience) == "" {
				t.Error("pods can't get out")
			}
			n.host.restore(v, "filter", "-A FORWARD -d "+a.outside+" -j DROP")
			n.host.mustSync(k, forwarding(t))
			if c.sourceSeen(t, glance) != "" {
				t.Error("a policy that was appended after ours is not heeded")
			}
		})
	}
}
