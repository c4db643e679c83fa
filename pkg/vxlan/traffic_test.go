package vxlan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// pair is two hosts on one wire, host-1 and host-2 of the family.
func pair(t *testing.T, f familyCase) [2]*host {
	t.Helper()
	hosts := [2]*host{newHost(t), newHost(t)}
	a, b := hosts[0], hosts[1]
	for _, h := range hosts {
		// A link-local address that is still being probed can't ask for neighbours.
		h.in(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644) })
	}
	a.must(a.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500}, PeerName: "eth0", PeerNamespace: netlink.NsFd(b.ns.FD()),
	}))
	for i, h := range hosts {
		h.must(h.nl.LinkSetUp(h.link("eth0")))
		for _, a := range f.node(i + 1).Addresses {
			h.addAddr("eth0", netip.PrefixFrom(a, map[bool]int{true: 24, false: 64}[a.Is4()]).String())
		}
	}
	return hosts
}

// pod is an address of a host's subnet, which stands for a pod.
func pod(subnet netip.Prefix) netip.Addr { return via(subnet).Next().Next() }

// echo echoes datagrams on a UDP port, and returns the port.
func (h *host) echo(at netip.Addr) netip.AddrPort {
	h.t.Helper()
	var c net.PacketConn
	h.in(func() (err error) {
		c, err = net.ListenPacket("udp", netip.AddrPortFrom(at, 0).String())
		return err
	})
	h.t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			h.sources.Store(from.(*net.UDPAddr).AddrPort().Addr().Unmap(), true)
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// ping sends a datagram until it comes back, for as long as patience lasts.
func (h *host) ping(to netip.AddrPort, size int) {
	h.t.Helper()
	var c net.Conn
	h.in(func() (err error) {
		c, err = net.Dial("udp", to.String())
		return err
	})
	defer c.Close()
	sent, got := make([]byte, size), make([]byte, 1<<16)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_, err := c.Write(sent)
		h.must(err)
		h.must(c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)))
		n, err := c.Read(got)
		if err == nil && n == size {
			return
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			h.t.Fatalf("%d bytes, %v", n, err)
		}
	}
	h.t.Fatalf("no answer from %s to %d bytes", to, size)
}

// A datagram of the device's full MTU passes unfragmented. The tunnel's packet
// around it is the largest that the underlay carries.
func TestTraffic(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			hosts := pair(t, f)
			for i, h := range hosts {
				own := f.node(i + 1)
				from := strings.TrimSuffix(f.underlay, "1") + fmt.Sprint(i+1)
				h.sync(h.want(from, own, f.nodes(1, 2)...))
				for _, p := range own.Subnets {
					h.addAddr("lo", netip.PrefixFrom(pod(p), pod(p).BitLen()).String())
				}
			}
			for i, h := range hosts {
				other := f.node(2 - i)
				for _, p := range other.Subnets {
					h.ping(hosts[1-i].echo(pod(p)), 100)
					h.ping(hosts[1-i].echo(pod(p)), h.link("overlay0").Attrs().MTU-headers(p))
				}
			}
			checkTunnelled(t, hosts[0])
		})
	}
}

// headers is the length of IP and UDP headers.
func headers(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 20 + 8
	}
	return 40 + 8
}

func checkTunnelled(t *testing.T, h *host) {
	t.Helper()
	stats := h.link("overlay0").Attrs().Statistics
	if stats.TxPackets == 0 || stats.RxPackets == 0 {
		t.Errorf("the tunnel was not used: %d packets sent, %d received", stats.TxPackets, stats.RxPackets)
	}
}

// Traffic goes on after each peer's address or subnet changed.
func TestTrafficFollowsAPeer(t *testing.T) {
	t.Parallel()
	f := families()[0]
	hosts := pair(t, f)
	a, b := hosts[0], hosts[1]
	nodes := f.nodes(1, 2)
	connect := func() {
		t.Helper()
		for i, h := range hosts {
			h.sync(h.want(nodes[i].Addresses[0].String(), nodes[i], nodes...))
		}
		p := nodes[1].Subnets[0]
		b.addAddr("lo", netip.PrefixFrom(pod(p), 32).String())
		a.ping(b.echo(pod(p)), 100)
		b.must(b.nl.AddrDel(b.link("lo"), &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(pod(p), 32).String())}))
	}
	connect()
	nodes[1] = registry.Node{Name: "host-2", Addresses: node("", "192.168.77.9", "").Addresses, Subnets: nodes[1].Subnets}
	b.must(b.nl.AddrDel(b.link("eth0"), &netlink.Addr{IPNet: ipNet("192.168.77.2/24")}))
	b.addAddr("eth0", "192.168.77.9/24")
	connect()
	nodes[1].Subnets = f.node(9).Subnets
	connect()
}
