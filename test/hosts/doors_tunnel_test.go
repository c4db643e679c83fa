package hosts

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

const tunnelPort = 4789

// knock is a try to put a packet into host-a's or host-b's tunnel.
type knock struct {
	name   string
	from   *sandbox.Netns
	to     netip.Addr
	victim *lab.Pod // gets what is in the tunnel's packet if the host takes it
	// src is the source address of a packet that is built by hand and goes to the MAC
	// address; the zero Addr means a plain socket, as any process in a pod has.
	src  netip.Addr
	link string
	mac  net.HardwareAddr
}

// payload is a packet in the tunnel, whose source port is the mark.
func (k knock) payload(vni uint32, mark uint16) []byte {
	address := k.victim.Addresses[0]
	inner := probe.Packet{
		Protocol: unix.IPPROTO_UDP, Src: netip.AddrPortFrom(forged(address), mark), Dst: netip.AddrPortFrom(address, hearing),
	}
	return probe.VXLAN(vni, subnet.VTEPMAC(k.victim.Host.Subnets()), inner)
}

func (k knock) send(vni uint32, mark uint16) error {
	payload := k.payload(vni, mark)
	if k.src.IsValid() {
		return probe.Inject(k.from, k.link, k.mac, probe.Packet{
			Protocol: unix.IPPROTO_UDP, Src: netip.AddrPortFrom(k.src, 40000), Dst: netip.AddrPortFrom(k.to, tunnelPort), Payload: payload,
		})
	}
	return k.from.Do(func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(k.to, tunnelPort).String())
		if err != nil {
			return err
		}
		_, err = c.Write(payload)
		return errors.Join(err, c.Close())
	})
}

// forged is an address that no host has: of another host's pod.
func forged(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.MustParseAddr("10.244.2.99")
	}
	return netip.MustParseAddr("fd44:0:0:2::99")
}

// hearing is the port on which the victim listens.
const hearing = 7777

// ears hears the marks of the packets that come to a victim.
type ears struct{ *net.UDPConn }

func (f *fleet) listen(p *lab.Pod) ears {
	f.t.Helper()
	var c *net.UDPConn
	f.on(p.Netns(), func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Addresses[0], hearing)))
		return err
	})
	f.t.Cleanup(func() { c.Close() })
	return ears{c}
}

// hears reports whether the mark comes before that of the control, which is sent
// again until it comes.
func (e ears) hears(ctx context.Context, mark uint16, control knock) (bool, error) {
	heard := false
	for ctx.Err() == nil {
		if err := control.send(1, mark+1); err != nil {
			return false, err
		}
		if err := e.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return false, err
		}
		for {
			_, from, err := e.ReadFromUDPAddrPort(make([]byte, 16))
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return false, err
			}
			switch from.Port() {
			case mark:
				heard = true
			case mark + 1:
				return heard, nil
			}
		}
	}
	return false, errors.New("not even another host's packets arrive")
}

// closed are the doors that must be closed with any setting.
func (f *doors) closed() []knock {
	f.t.Helper()
	a, b := f.hosts[0], f.hosts[1]
	pod, far := f.pods[0], f.pods[1]
	var knocks []knock
	own, other := a.Subnets()[0], b.Subnets()[0]
	for to, name := range map[netip.Addr]string{
		a.Addresses()[0]: "its host's address", subnet.Gateway(own): "its gateway", subnet.VTEP(own): "its host's VTEP",
	} {
		knocks = append(knocks, knock{name: "a pod to " + name, from: pod.Netns(), to: to, victim: pod})
	}
	for to, name := range map[netip.Addr]string{
		b.Addresses()[0]: "another host's address", subnet.Gateway(other): "another host's gateway", subnet.VTEP(other): "another host's VTEP",
		unregistered(a.Addresses()[0]): "an address of another host that is not in the registry",
	} {
		knocks = append(knocks, knock{name: "a pod to " + name, from: pod.Netns(), to: to, victim: far})
	}
	bridge := f.mac(a, "cni0")
	loopback := map[bool]netip.Addr{true: netip.MustParseAddr("127.0.0.1"), false: netip.IPv6Loopback()}[pod.Addresses[0].Is4()]
	return append(knocks,
		knock{name: "a pod to its host's localhost", from: pod.Netns(), to: loopback, victim: pod, src: pod.Addresses[0], link: "eth0", mac: bridge},
		knock{name: "a pod as another host, to its host", from: pod.Netns(), to: a.Addresses()[0], victim: pod, src: b.Addresses()[0], link: "eth0", mac: bridge},
		knock{name: "a pod as its host, to another host", from: pod.Netns(), to: b.Addresses()[0], victim: far, src: a.Addresses()[0], link: "eth0", mac: bridge})
}

// unregistered is a further address of host-b.
func unregistered(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.MustParseAddr("198.51.100.2")
	}
	return netip.MustParseAddr("2001:db8:51::2")
}

func (f *doors) mac(h *lab.Host, link string) net.HardwareAddr {
	f.t.Helper()
	l, err := h.Handle().LinkByName(link)
	f.must(err)
	return l.Attrs().HardwareAddr
}

// TestTunnelsDoors tries every way into the tunnel: the table of SECURITY.md.
func TestTunnelsDoors(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		name string
		args []string
		any  bool // sources are not checked
	}{
		{"as it is by default", nil, false},
		{"from any source", []string{"--vxlan-check-source=false"}, true},
		{"with direct routing, from any source", []string{"--vxlan-check-source=false", "--direct-routing"}, true},
		{"tracked, without masquerading", []string{"--vxlan-notrack=false", "--masquerade=false"}, false},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			eachFamily(t, func(t *testing.T, m mode) {
				f := newDoors(t, m, s.args...)
				a, b, world := f.hosts[0], f.hosts[1], f.lab.Switch()
				for _, k := range f.closed() {
					f.is(false, k)
				}
				victim, to := f.pods[0], a.Addresses()[0]
				f.is(s.any, knock{name: "the host itself", from: a.Netns(), to: to, victim: victim})
				f.is(false, knock{name: "the host itself to its gateway", from: a.Netns(), to: subnet.Gateway(a.Subnets()[0]), victim: victim})
				f.is(s.any, knock{name: "a neighbour on the hosts' link", from: world, to: to, victim: victim})
				// Nothing in the packet tells them apart: the hosts' network has to.
				f.is(true, knock{name: "another host", from: b.Netns(), to: to, victim: victim})
				f.is(true, knock{name: "a neighbour as another host", from: world, to: to, victim: victim,
					src: b.Addresses()[0], link: "switch", mac: f.mac(a, "eth0")})
			})
		})
	}
}

// doors are tried one after the other.
type doors struct {
	*fleet
	ears map[*lab.Pod]ears
	mark uint16 // of the last packet
}

// newDoors makes a fleet whose second host has one more address.
func newDoors(t *testing.T, m mode, args ...string) *doors {
	t.Helper()
	// Pods may forge sources, so that nothing else keeps their packets away.
	args = append([]string{"--anti-spoofing=false"}, args...)
	f := newFleet(t, 2, m.set, func(c *lab.Config) { c.DaemonArgs = append(c.DaemonArgs, args...) })
	a, b := f.hosts[0], f.hosts[1]
	more := unregistered(a.Addresses()[0])
	f.must(onLink("lo", func(h *netlink.Handle, l netlink.Link) error {
		return h.AddrAdd(l, &netlink.Addr{IPNet: ipNetOf(subnet.Host(more)), Flags: unix.IFA_F_NODAD})
	})(b.Handle()))
	f.must(a.Handle().RouteAdd(&netlink.Route{Dst: ipNetOf(subnet.Host(more)), Gw: b.Addresses()[0].AsSlice()}))
	d := &doors{fleet: f, ears: map[*lab.Pod]ears{}}
	for _, p := range f.pods {
		d.ears[p] = f.listen(p)
	}
	return d
}

// is checks that a door is open, or closed.
func (d *doors) is(open bool, k knock) {
	d.t.Helper()
	d.mark += 2
	if err := k.send(1, d.mark); err != nil && !errors.Is(err, unix.EPERM) {
		d.t.Errorf("%s: %v", k.name, err)
	}
	from, to := d.hosts[1], d.hosts[0]
	if k.victim.Host != to {
		from, to = to, from
	}
	control := knock{from: from.Netns(), to: to.Addresses()[0], victim: k.victim}
	got, err := d.ears[k.victim].hears(withPatience(d.t), d.mark, control)
	if err != nil || got != open {
		d.t.Errorf("%s: the packet got in: %t, want %t (%v)", k.name, got, open, err)
	}
}
