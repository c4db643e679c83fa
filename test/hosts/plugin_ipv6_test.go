package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// setConf sets a kernel parameter of IPv6 in a namespace.
func setConf(t *testing.T, ns *sandbox.Netns, path, value string) {
	t.Helper()
	sandboxtest.Do(t, ns, func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", path), []byte(value), 0o644)
	})
}

// confs are parameters of IPv6 of some interfaces, a line each.
func confs(t *testing.T, ns *sandbox.Netns, links ...string) []string {
	t.Helper()
	var lines []string
	sandboxtest.Do(t, ns, func() error {
		for _, link := range links {
			for _, name := range []string{"accept_ra", "accept_dad", "disable_ipv6", "autoconf", "forwarding"} {
				value, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", link, name))
				if err != nil {
					return err
				}
				lines = append(lines, fmt.Sprintf("%s of %s is %s", name, link, value[:len(value)-1]))
			}
		}
		return nil
	})
	return lines
}

// addrs6 are a namespace's IPv6 addresses.
func addrs6(t *testing.T, h *netlink.Handle) []netlink.Addr {
	t.Helper()
	addrs, err := h.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	return addrs
}

// tentative are the IPv6 addresses of a namespace that can't be used yet.
func tentative(t *testing.T, ns *sandbox.Netns) []netip.Addr {
	t.Helper()
	h := netlinkIn(t, ns)
	defer h.Close() // it holds the namespace
	var found []netip.Addr
	for _, a := range addrs6(t, h) {
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			found = append(found, addrOf(a.IP))
		}
	}
	return found
}

// A pod's addresses can be used when ADD returns: there is no duplicate address
// detection, which would take a second for each and lose packets meanwhile. The
// first packets pass: to the gateway, and to other new pods.
func TestPodsAddressesAreUsableAtOnce(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			p := newPlugin(t, m.subnets...)
			for i := range 3 {
				ns, out := p.add(t, fmt.Sprint("pod", i))
				for _, a := range tentative(t, ns) {
					if strings.Contains(out, a.String()) {
						t.Errorf("pod %d: after ADD %s can't be used yet", i, a)
					}
				}
				for _, to := range m.gateways() {
					for range i + 1 { // the gateway, and all pods before this one
						if err := soon(withPatience(t), ns, to); err != nil {
							t.Errorf("pod %d to %s: %v", i, to, err)
						}
						to = to.Next()
					}
				}
			}
		})
	}
}

// soon waits for the first answer: a port forwards a moment after its carrier is
// up, because the kernel informs the bridge through a work queue.
func soon(ctx context.Context, from *sandbox.Netns, to netip.Addr) error {
	return probe.Eventually(ctx, func(ctx context.Context) error {
		_, err := probe.Ping(ctx, from, to)
		return err
	})
}

// advertisement says: I am a router, here is a prefix to make addresses of
// (RFC 4861, 4.2 and 4.6.2).
func advertisement() icmp.Message {
	body := []byte{
		64, 0, 0x07, 0x08, // hop limit, flags, lifetime of the router: 1800 s
		0, 0, 0, 0, 0, 0, 0, 0, // reachable time, timer
		3, 4, 64, 0xc0, // prefix information of 32 bytes, /64, on the link and for addresses
		0, 1, 0x51, 0x80, 0, 1, 0x51, 0x80, 0, 0, 0, 0, // valid and preferred for a day
	}
	prefix := netip.MustParseAddr("fd66:6666::").As16()
	return icmp.Message{Type: ipv6.ICMPTypeRouterAdvertisement, Body: &icmp.RawBody{Data: append(body, prefix[:]...)}}
}

// neighbour is an interface of another namespace on the same link.
type neighbour struct {
	ns   *sandbox.Netns
	link string
}

// open is netlink where it is, and the interface.
func (n neighbour) open(t *testing.T) (*netlink.Handle, netlink.Link) {
	t.Helper()
	h := netlinkIn(t, n.ns)
	l, err := h.LinkByName(n.link)
	if err != nil {
		t.Fatal(err)
	}
	return h, l
}

// linkLocal is the address that the kernel gave it, and its MAC address.
func (n neighbour) linkLocal(t *testing.T) (net.IP, net.HardwareAddr) {
	t.Helper()
	h, l := n.open(t)
	for _, a := range addrs6(t, h) {
		if a.LinkIndex == l.Attrs().Index && a.IP.IsLinkLocalUnicast() {
			return a.IP, l.Attrs().HardwareAddr
		}
	}
	t.Fatalf("%s has no link-local address", n.link)
	return nil, nil
}

// advertise has one send it from a link-local address, as routers do, to all on
// the link and straight to the victim.
func (n neighbour) advertise(t *testing.T, victim neighbour) {
	t.Helper()
	target, mac := victim.linkLocal(t)
	h, l := n.open(t)
	source := &netlink.Addr{IPNet: ipNet("fe80::666/64"), Flags: unix.IFA_F_NODAD}
	known := &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: target, HardwareAddr: mac, State: netlink.NUD_PERMANENT}
	if err := errors.Join(h.AddrReplace(l, source), h.NeighSet(known)); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Do(t, n.ns, func() error {
		conn, err := icmp.ListenPacket("ip6:ipv6-icmp", "fe80::666%"+n.link)
		if err != nil {
			return err
		}
		defer conn.Close()
		message := advertisement()
		packet, err := message.Marshal(nil)
		if err != nil {
			return err
		}
		c := conn.IPv6PacketConn()
		// Others are not believed (RFC 4861, 6.1.2).
		err = errors.Join(c.SetMulticastHopLimit(255), c.SetHopLimit(255))
		for _, to := range []net.IP{net.IPv6linklocalallnodes, target} {
			_, sent := c.WriteTo(packet, nil, &net.IPAddr{IP: to, Zone: n.link})
			err = errors.Join(err, sent)
		}
		return err
	})
}

// advertisementsHeard is how many came to a namespace.
func advertisementsHeard(t *testing.T, ns *sandbox.Netns) int {
	t.Helper()
	var snmp6 []byte
	sandboxtest.Do(t, ns, func() (err error) {
		snmp6, err = os.ReadFile("/proc/thread-self/net/snmp6")
		return err
	})
	m := regexp.MustCompile(`(?m)^Icmp6InRouterAdvertisements\s+(\d+)`).FindSubmatch(snmp6)
	if m == nil {
		t.Fatalf("no count of router advertisements in:\n%s", snmp6)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// configured are the IPv6 addresses and routes of a namespace.
func configured(t *testing.T, ns *sandbox.Netns) []string {
	t.Helper()
	h := netlinkIn(t, ns)
	defer h.Close() // it holds the namespace
	routes, err := h.RouteList(nil, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, a := range addrs6(t, h) {
		if !a.IP.IsLinkLocalUnicast() {
			lines = append(lines, "address "+a.IPNet.String())
		}
	}
	for _, r := range routes {
		if !r.Dst.IP.IsLinkLocalUnicast() {
			lines = append(lines, fmt.Sprintf("route %s via %s on %d", r.Dst, r.Gw, r.LinkIndex))
		}
	}
	slices.Sort(lines)
	return lines
}

// A pod that poses as a router gets no traffic, neither the host's nor that of
// other pods. The host's own router advertises nothing to pods. The same holds
// where pods have IPv4 alone: a host that took an IPv6 address from a pod would
// prefer IPv6 to IPv4 (CVE-2020-10749).
func TestRouterAdvertisementsAreIgnored(t *testing.T) {
	t.Parallel()
	eachModeAndNetfilter(t, func(t *testing.T, m mode, n netfilter) {
		p := newPlugin(t, m.subnets...)
		p.conf["antiSpoofing"] = false // the guard would drop them before
		n.set(t, p)
		podNamed := func(id string) neighbour {
			ns, _ := p.add(t, id)
			return neighbour{ns, "eth0"}
		}
		victim, attacker, host := podNamed("victim"), podNamed("attacker"), neighbour{p.host.Netns(), "cni0"}
		for _, tt := range []struct {
			name     string
			from, to neighbour
			comes    bool
		}{
			{"a pod to the host", attacker, host, true},
			{"the host to a pod", host, victim, true},
			// Where the bridge switches, they reach each other; but a link-local
			// address that nobody asked for can't be used yet.
			{"a pod to a pod", attacker, victim, n.on && m.hasIPv6()},
		} {
			before, heard := configured(t, tt.to.ns), advertisementsHeard(t, tt.to.ns)
			tt.from.advertise(t, tt.to)
			if tt.comes {
				err := probe.Eventually(withPatience(t), func(context.Context) error {
					if advertisementsHeard(t, tt.to.ns) == heard {
						// A new bridge drops what the host sends until the kernel has
						// noticed its first port (linkwatch).
						tt.from.advertise(t, tt.to)
						return errors.New("no advertisement came, so this shows nothing")
					}
					return nil
				})
				if err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
			}
			if diff := cmp.Diff(before, configured(t, tt.to.ns)); diff != "" {
				t.Errorf("%s: (-before +after):\n%s", tt.name, diff)
			}
		}
	})
}

// Runtimes turn IPv6 off in namespaces when they don't know whether the network
// has IPv6, and so do hosts. A pod with IPv6 addresses gets IPv6 turned on, for
// our interfaces only.
func TestIPv6IsTurnedOnWherePodsHaveIt(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			p := newPlugin(t, m.subnets...)
			ns := sandboxtest.NewNetns(t)
			for _, space := range []*sandbox.Netns{ns, p.host.Netns()} {
				setConf(t, space, "all/disable_ipv6", "1")
				setConf(t, space, "default/disable_ipv6", "1")
			}
			inPod, onHost := confs(t, ns, "all", "default", "lo"), confs(t, p.host.Netns(), "default", "lo")
			if _, cniErr := p.run(t, invocation{command: "ADD", netns: ns.Path()}); cniErr != nil {
				t.Fatal(cniErr)
			}
			for _, gateway := range m.gateways() {
				if err := soon(withPatience(t), ns, gateway); err != nil {
					t.Error(err)
				}
			}
			if diff := cmp.Diff(inPod, confs(t, ns, "all", "default", "lo")); diff != "" {
				t.Errorf("in the pod (-before +after):\n%s", diff)
			}
			if have := confs(t, p.host.Netns(), "lo"); slices.Contains(have, "disable_ipv6 of lo is 0") {
				t.Errorf("on the host, before %v, after %v", onHost, have)
			}
		})
	}
}

// The plugin's sysctls in a pod concern our interface only. Another network's
// interface, which may have a router, and later ones stay as they are.
func TestOtherInterfacesOfAPodStayAsTheyAre(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "10.244.1.0/24", "fd00:244:1::/64")
	ns := sandboxtest.NewNetns(t)
	h := netlinkIn(t, ns)
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "net9"}, PeerName: "far"}); err != nil {
		t.Fatal(err)
	}
	others := []string{"all", "default", "lo", "net9"}
	before := confs(t, ns, others...)
	if _, cniErr := p.run(t, invocation{command: "ADD", netns: ns.Path()}); cniErr != nil {
		t.Fatal(cniErr)
	}
	if diff := cmp.Diff(before, confs(t, ns, others...)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	want := []string{
		"accept_ra of eth0 is 0", "accept_dad of eth0 is 0", "disable_ipv6 of eth0 is 0", "autoconf of eth0 is 1", "forwarding of eth0 is 0",
	}
	if diff := cmp.Diff(want, confs(t, ns, "eth0")); diff != "" {
		t.Errorf("(-want +have):\n%s", diff)
	}
}

// A host that begins to forward keeps accepting advertisements of the routers it
// had, and nothing else of its interfaces changes.
func TestHostGoesOnHearingItsRouters(t *testing.T) {
	t.Parallel()
	p := newPlugin(t, "fd00:244:1::/64")
	h, host := p.host.Handle(), p.host.Netns()
	for _, name := range []string{"heard", "deaf", "router", "port"} {
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-far"}); err != nil {
			t.Fatal(err)
		}
	}
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other"}}
	port, err := h.LinkByName("port")
	if err := errors.Join(err, h.LinkAdd(other), h.LinkSetMaster(port, other)); err != nil {
		t.Fatal(err)
	}
	setConf(t, host, "deaf/accept_ra", "0")
	setConf(t, host, "router/accept_ra", "2")
	links := []string{"all", "default", "lo", "heard", "deaf", "router", "port"}
	want := strings.Join(confs(t, host, links...), "\n")
	p.add(t, "pod")
	want = strings.ReplaceAll(want, "accept_ra of heard is 1", "accept_ra of heard is 2")
	for _, link := range links { // with the host's own switch, all of them
		want = strings.ReplaceAll(want, "forwarding of "+link+" is 0", "forwarding of "+link+" is 1")
	}
	if diff := cmp.Diff(want, strings.Join(confs(t, host, links...), "\n")); diff != "" {
		t.Errorf("(-want +have):\n%s", diff)
	}
}
