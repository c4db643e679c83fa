package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// The hosts have addresses of both families. The tunnel runs over the one that
// is asked for, and over another one while everything runs; one device carries
// the pods' packets of both.
func TestDaemonFollowsTheFamilyOfTheUnderlay(t *testing.T) {
	t.Parallel()
	f := newFleetWithConfig(t, modes[2].set)
	for _, tt := range []struct {
		settings string
		ipv6     bool
	}{
		{"", false}, {"underlayFamily: ipv6", true}, {"underlayFamily: ipv4", false},
		{"underlayFamily: ipv6", true}, {"underlayFamily: auto", false},
	} {
		t.Run(tt.settings, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.configure(tt.settings + "\n")
			f.eventually(ctx, func(ctx context.Context) error { return f.runsOver(ctx, tt.ipv6) })
		})
	}
	t.Run("a family that this host lacks", func(t *testing.T) {
		f, ctx := f.sub(t), withPatience(t)
		a := f.hosts[0]
		address := netip.PrefixFrom(a.Addresses()[1], 64)
		f.must(onLink("eth0", func(h *netlink.Handle, l netlink.Link) error {
			return h.AddrDel(l, &netlink.Addr{IPNet: ipNetOf(address)})
		})(a.Handle()))
		f.configure("underlayFamily: ipv6\n")
		f.must(a.Daemon().Log.Wait(ctx, "or underlayFamily (ipv6) to the other family, on all hosts"))
	})
}

// runsOver looks at both ends of the tunnel, and what comes through it.
func (f *fleet) runsOver(ctx context.Context, ipv6 bool) error {
	for i, h := range f.hosts {
		own, peer := h.Addresses()[0], f.hosts[1-i].Addresses()[0]
		mtu := 1450
		if ipv6 {
			own, peer, mtu = h.Addresses()[1], f.hosts[1-i].Addresses()[1], 1430
		}
		there := entries(f.hosts[1-i])
		there[0].addresses = []netip.Addr{peer}
		if err := errors.Join(f.carries(h, carrier{"eth0", own.String(), mtu}), knows(h, there)); err != nil {
			return err
		}
	}
	return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
}

// A network in which hosts get the second family one after the other: pods talk
// in what both have, and the hosts say who has one family alone.
func TestDaemonNodesOfOneFamilyAmongOthers(t *testing.T) {
	t.Parallel()
	f := newIdleFleet(t, 3, modes[2].set, noResync)
	nodes := entries(f.hosts...)
	nodes[1].subnets = nodes[1].subnets[:1]
	nodes[2].subnets = nodes[2].subnets[1:]
	f.register(nodes)
	for _, h := range f.hosts {
		ctx := withPatience(t)
		_, err := h.StartDaemon(ctx)
		f.must(err)
		f.pods = append(f.pods, f.addPod(ctx, h, "pod"))
	}
	both, four, six := f.pods[0], f.pods[1], f.pods[2]
	for i, want := range []int{2, 1, 1} {
		if got := f.pods[i].Addresses; len(got) != want {
			t.Errorf("a pod of %s has %v", f.hosts[i].Name, got)
		}
	}
	ctx := withPatience(t)
	f.pingAll(ctx, both.Netns(), four.Addresses)
	f.pingAll(ctx, four.Netns(), both.Addresses[:1])
	f.pingAll(ctx, both.Netns(), six.Addresses)
	f.pingAll(ctx, six.Netns(), both.Addresses[1:])
	for _, h := range f.hosts {
		f.must(h.Daemon().Log.Wait(ctx, "IPv4 only: host-b; IPv6 only: host-c"))
	}
	const apart = `peer \"host-c\" has only IPv6 pod subnets, and this host only IPv4 ones, so their pods don't reach each other`
	f.must(f.hosts[1].Daemon().Log.Wait(ctx, apart))
	if log := f.hosts[0].Daemon().Log.String(); strings.Contains(log, "don't reach each other") {
		t.Errorf("%s says so too:\n%s", f.hosts[0].Name, log)
	}
	f.must(f.lab.Register(f.hosts...))
	for _, h := range f.hosts {
		f.must(h.Daemon().Log.Wait(ctx, `msg="some nodes have single-stack pods" nodes=none`))
	}
}

// Pods' addresses may lie inside the network of the hosts' own link: as in a
// cloud that gives a machine a part of its link's /64. Other machines of the
// link look for such a pod on the link, and nobody answers there for it: that
// would take proxy NDP (or ARP) on the hosts. Hosts of the network don't ask: to
// them the pod's subnet is the longer prefix, which leads through the tunnel.
func TestDaemonPodSubnetsInsideTheUnderlaysNetwork(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f := newIdleFleet(t, 2, m.set, noResync)
		nodes := entries(f.hosts...)
		for i := range nodes {
			nodes[i].subnets = m.prefixes(fmt.Sprintf("192.168.77.%d/27", 64*(i+1)), fmt.Sprintf("fd77:0:0:0:%d::/80", i+1))
		}
		f.register(nodes)
		f.startInTurn()
		ctx := withPatience(t)
		f.eventually(ctx, func(ctx context.Context) error {
			return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
		})
		for i, h := range f.hosts {
			f.pingAll(ctx, h.Netns(), f.pods[1-i].Addresses)            // a host to another host's pod
			f.pingAll(ctx, f.pods[i].Netns(), f.hosts[1-i].Addresses()) // and back
			f.must(f.getsOut(ctx, f.pods[i]))
			for _, a := range f.lab.Segments() { // a machine of the link that is no host of ours
				f.pingAll(ctx, f.pods[i].Netns(), []netip.Addr{a.Addr()})
			}
		}
		for _, a := range f.pods[0].Addresses {
			if err := reachWithin(ctx, f.lab.Switch(), a); err == nil {
				t.Errorf("a machine of the link reaches %s by itself", a)
			}
			f.answerFor(f.hosts[0], a)
			f.eventually(ctx, func(ctx context.Context) error {
				_, err := probe.Ping(ctx, f.lab.Switch(), a)
				return err
			})
		}
	})
}

// reachWithin is for packets that nobody should answer.
func reachWithin(ctx context.Context, from *sandbox.Netns, to netip.Addr) error {
	const soon = 200 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	_, err := probe.Ping(ctx, from, to)
	return err
}

// answerFor has a host answer on the link for a pod, as an operator would.
func (f *fleet) answerFor(h *lab.Host, pod netip.Addr) {
	f.t.Helper()
	if pod.Is4() {
		f.setSysctl(h, "net/ipv4/conf/eth0/proxy_arp", "1")
		return
	}
	f.setSysctl(h, "net/ipv6/conf/eth0/proxy_ndp", "1")
	f.must(onLink("eth0", func(handle *netlink.Handle, l netlink.Link) error {
		return handle.NeighAdd(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: netlink.FAMILY_V6, Flags: netlink.NTF_PROXY, IP: pod.AsSlice()})
	})(h.Handle()))
}

// A pod has its addresses in the order in which its node has subnets, and the
// first family of the registry's order is the tunnel's.
func TestDaemonKeepsTheOrderOfFamilies(t *testing.T) {
	t.Parallel()
	f := newIdleFleet(t, 2, modes[2].set, noResync)
	nodes := entries(f.hosts...)
	for i := range nodes {
		slices.Reverse(nodes[i].subnets)
		slices.Reverse(nodes[i].addresses)
	}
	f.register(nodes)
	for i, h := range f.hosts {
		ctx := withPatience(t)
		f.start(ctx, h)
		pod := f.addPod(ctx, h, "pod")
		for j, s := range nodes[i].subnets {
			if !s.Contains(pod.Addresses[j]) {
				t.Errorf("the pod has %v, and its node the subnets %v", pod.Addresses, nodes[i].subnets)
			}
		}
		f.pods = append(f.pods, pod)
	}
	f.eventually(withPatience(t), func(ctx context.Context) error { return f.runsOver(ctx, true) })
}

// What is wrong with an address or a subnet of a family is told by its name,
// with what was expected and what to do.
func TestDaemonTellsOfFamiliesThatDoNotFit(t *testing.T) {
	t.Parallel()
	const reach = ": give the address by which the other hosts reach this host"
	f := newIdleFleet(t, 2, modes[2].set)
	h := f.hosts[0]
	// list makes one value of host-b's that is written into its entry.
	addresses := func(list string) string { return fmt.Sprintf("addresses: [%s], podSubnets: [10.244.2.0/24]", list) }
	subnets := func(list string) string { return fmt.Sprintf("addresses: [192.168.77.2], podSubnets: [%s]", list) }
	for _, tt := range []struct{ name, entry, want string }{
		{"a subnet too small", subnets("10.244.2.0/31"), "pod subnet 10.244.2.0/31 is too small for a gateway and pods: use a /30 or larger"},
		{"an IPv6 subnet too small", subnets(`"fd44:0:0:2::/127"`), "pod subnet fd44:0:0:2::/127 is too small for a gateway and pods: use a /126 or larger"},
		{"an IPv6 subnet with host bits", subnets(`"fd44:0:0:2::1/64"`), "pod subnet fd44:0:0:2::1/64 has host bits set: write fd44:0:0:2::/64"},
		{"a subnet in the other form", subnets(`"::ffff:10.244.2.0/120"`), "pod subnet ::ffff:10.244.2.0/120 is an IPv4-mapped IPv6 prefix: write it as IPv4"},
		{"a subnet of link-local addresses", subnets(`"fe80::/64"`), "pod subnet fe80::/64 is not a range of unicast addresses that can be routed"},
		{"a subnet of groups", subnets(`"ff05::/64"`), "pod subnet ff05::/64 is not a range of unicast addresses that can be routed"},
		{"a subnet with a zone", subnets(`"fd44::%eth0/64"`), "expected a network such as 10.244.1.0/24"},
		{"two addresses of IPv4", addresses("192.168.77.2, 192.168.77.3"), "addresses 192.168.77.2 and 192.168.77.3 are of one family: keep one of them"},
		{"two addresses of IPv6 around one of IPv4", addresses(`"fd77::2", 192.168.77.2, "fd77::3"`), "addresses fd77::2 and fd77::3 are of one family: keep one of them"},
		{"an address in the other form", addresses(`"::ffff:192.168.77.2"`), "address ::ffff:192.168.77.2 is IPv4 in IPv6 form: write 192.168.77.2"},
		{"a link-local address", addresses(`"fe80::2"`), "address fe80::2 is link-local, which means a different host on every link" + reach},
		{"a zone", addresses(`"fd77::2%eth0"`), "address fd77::2%eth0 has a zone: write fd77::2"},
		{"a group", addresses(`"ff02::1"`), "address ff02::1 is not the address of a single host, but in ff00::/8 (multicast)" + reach},
		{"a loopback", addresses(`"::1"`), "address ::1 is a loopback address" + reach},
		{"an address among pods", addresses(`"fd44:0:0:1::9"`), `address fd44:0:0:1::9 lies inside pod subnet fd44:0:0:1::/64 of node "host-a": give the host an address outside of all pod subnets`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.must(f.lab.WriteRegistry([]byte(registryText(entries(h)) + "- {name: host-b, " + tt.entry + "}\n")))
			if _, err := h.StartDaemon(ctx); err == nil || !strings.Contains(err.Error(), "host-b") && !strings.Contains(err.Error(), "nodes.yaml:5") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			f.notPublished(h)
		})
	}
	f.must(f.lab.Register(f.hosts...))
	for _, tt := range []struct {
		name string
		mtu  int // of eth0
		args []string
		want string
	}{
		{"an MTU too small for IPv6 pods", 1500, []string{"--mtu", "1279"},
			"mtu 1279 is less than the 1280 that IPv6 pods need (fd44:0:0:1::/64): set mtu to 0, or from 1280 to 1450"},
		{"an MTU that IPv4 would carry", 1500, []string{"--mtu", "1431", "--underlay-family", "ipv6"},
			"mtu 1431 is too large for underlay eth0, whose MTU of 1500 leaves 1430 to the pods: set mtu to 0 or at most 1430"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.must(onLink("eth0", func(handle *netlink.Handle, l netlink.Link) error { return handle.LinkSetMTU(l, tt.mtu) })(h.Handle()))
			d := f.launch(h, tt.args...)
			f.must(d.Log.Wait(ctx, tt.want))
			f.notPublished(h)
			f.stop(ctx, h)
		})
	}
	t.Run("a peer without an address of the tunnel's family", func(t *testing.T) {
		f, ctx := f.sub(t), withPatience(t)
		nodes := entries(f.hosts...)
		nodes[1].addresses = nodes[1].addresses[:1]
		f.register(nodes)
		d := f.launch(h, "--underlay-family", "ipv6")
		f.must(d.Log.Wait(ctx, `peer \"host-b\" is left out: it has no IPv6 address, but the tunnel runs from fd77::1 on eth0: add one to the registry, or set underlayFamily to the other family, on all hosts`))
	})
}

// On hosts with IPv6 turned off, as many are, pods have it if their nodes do: on
// our devices, and nowhere else.
func TestDaemonWhereHostsHaveIPv6Off(t *testing.T) {
	t.Parallel()
	f := newIdleFleet(t, 2, noResync)
	for _, h := range f.hosts {
		ctx := withPatience(t)
		f.setSysctl(h, "net/ipv6/conf/all/disable_ipv6", "1")
		f.setSysctl(h, "net/ipv6/conf/default/disable_ipv6", "1")
		f.start(ctx, h)
		f.pods = append(f.pods, f.addPod(ctx, h, "pod"))
		for link, want := range map[string]string{"cni0": "0", tunnel: "0", "eth0": "1", "lo": "1", "default": "1"} {
			if got := f.sysctl(h, "net/ipv6/conf/"+link+"/disable_ipv6"); got != want {
				t.Errorf("%s: disable_ipv6 of %s is %s, not %s", h.Name, link, got, want)
			}
		}
	}
	f.eventually(withPatience(t), func(ctx context.Context) error {
		return errors.Join(ping(ctx, f.pods[0], f.pods[1]), ping(ctx, f.pods[1], f.pods[0]))
	})
}

// Nobody who can send through the tunnel is this host's router, whatever the
// host's switch for new devices says.
func TestDaemonsDevicesHearNoRouters(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newIdleFleet(t, 1, m.set, noResync), withPatience(t)
		h := f.hosts[0]
		f.setSysctl(h, "net/ipv6/conf/default/accept_ra", "2")
		f.start(ctx, h)
		for _, link := range []string{"cni0", tunnel} {
			if got := f.sysctl(h, "net/ipv6/conf/"+link+"/accept_ra"); got != "0" {
				t.Errorf("accept_ra of %s is %s", link, got)
			}
		}
	})
}
