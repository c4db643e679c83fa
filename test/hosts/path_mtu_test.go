package hosts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// narrow is the MTU of the path between the hosts, in bytes. Their interfaces have
// more.
const narrow = 1400

// segmentOf are a host's network beyond the router, with the router's address, and
// the network between the two routers, in one family.
type segments struct {
	hosts, routers [2]netip.Prefix // of host or router i
	gateways       [2]netip.Addr   // of host i
}

func segmentsOf(six bool) segments {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	if six {
		return segments{
			[2]netip.Prefix{p("fd81::1/64"), p("fd82::1/64")}, [2]netip.Prefix{p("fd80::1/64"), p("fd80::2/64")},
			[2]netip.Addr{a("fd81::ff"), a("fd82::ff")},
		}
	}
	return segments{
		[2]netip.Prefix{p("192.168.81.1/24"), p("192.168.82.1/24")}, [2]netip.Prefix{p("192.168.80.1/24"), p("192.168.80.2/24")},
		[2]netip.Addr{a("192.168.81.254"), a("192.168.82.254")},
	}
}

// wide gives each of two hosts an interface to a router of its own. Between the
// routers the MTU is narrow. It returns the hosts' entries for the registry.
func (f *fleet) wide(s segments) []entry {
	f.t.Helper()
	routers := [2]*sandbox.Netns{sandboxtest.NewNetns(f.t), sandboxtest.NewNetns(f.t)}
	var handles [2]*netlink.Handle
	for i, ns := range routers {
		h, err := ns.Handle()
		f.must(err)
		f.t.Cleanup(h.Close)
		handles[i] = h
		f.on(ns, func() error {
			_, err := sysctl.Sync([]sysctl.Parameter{{Path: "net/ipv4/ip_forward", Value: "1"}, {Path: "net/ipv6/conf/all/forwarding", Value: "1"}})
			return err
		})
	}
	f.wire(end{handles[0], "middle", s.routers[0]}, end{handles[1], "middle", s.routers[1]}, routers[1], narrow)
	nodes := entries(f.hosts...)
	for i, h := range f.hosts {
		router := netip.PrefixFrom(s.gateways[i], s.hosts[i].Bits())
		f.wire(end{h.Handle(), "eth1", s.hosts[i]}, end{handles[i], "host", router}, routers[i], 1500)
		f.must(h.Handle().RouteAdd(&netlink.Route{Dst: ipNetOf(s.hosts[1-i].Masked()), Gw: s.gateways[i].AsSlice()}))
		f.must(handles[i].RouteAdd(&netlink.Route{Dst: ipNetOf(s.hosts[1-i].Masked()), Gw: s.routers[1-i].Addr().AsSlice()}))
		nodes[i].addresses = []netip.Addr{s.hosts[i].Addr()}
	}
	return nodes
}

// end is one end of a wire.
type end struct {
	handle  *netlink.Handle
	link    string
	address netip.Prefix
}

// wire joins two ends; the second one is in the namespace.
func (f *fleet) wire(a, b end, in *sandbox.Netns, mtu int) {
	f.t.Helper()
	f.must(a.handle.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: a.link, MTU: mtu}, PeerName: b.link, PeerNamespace: netlink.NsFd(in.FD()), PeerMTU: uint32(mtu),
	}))
	for _, e := range []end{a, b} {
		f.must(onLink(e.link, func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(h.LinkSetUp(l), h.AddrAdd(l, &netlink.Addr{IPNet: ipNetOf(e.address), Flags: unix.IFA_F_NODAD}))
		})(e.handle))
	}
}

// The path between the hosts carries less than their interfaces, and nothing was
// configured. TCP gets through, and UDP that must not be fragmented is told what
// fits.
func TestNarrowPath(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		underlay string
		args     []string
		told     bool // pods learn the MTU; otherwise routers fragment
	}{
		{onlyIPv4, nil, false},
		{onlyIPv4, []string{"--vxlan-df", "set"}, true},
		{onlyIPv4, []string{"--vxlan-df", "inherit"}, true},
		{onlyIPv6, nil, true},
	} {
		t.Run(fmt.Sprint(s.underlay, s.args), func(t *testing.T) {
			t.Parallel()
			f := newIdleFleet(t, 2, func(c *lab.Config) { c.DaemonArgs = append(c.DaemonArgs, s.args...) })
			f.register(f.wide(segmentsOf(s.underlay == onlyIPv6)))
			f.startInTurn()
			overhead := map[string]int{onlyIPv4: 50, onlyIPv6: 70}[s.underlay]
			for i, to := range f.pods[1].Addresses {
				f.must(f.pours(withPatience(t), f.pods[0], f.pods[1], to))
				f.must(f.pours(withPatience(t), f.pods[1], f.pods[0], f.pods[0].Addresses[i]))
				if s.told {
					f.fits(withPatience(t), to, narrow-overhead)
				}
			}
		})
	}
}

// pours sends more by TCP than fits into the first packets.
func (f *fleet) pours(ctx context.Context, from, to *lab.Pod, at netip.Addr) error {
	const size = 1 << 20
	var listener net.Listener
	f.on(to.Netns(), func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
		return err
	})
	defer listener.Close()
	poured := make(chan error, 1)
	go func() {
		poured <- from.Netns().Do(func() error {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
			if err != nil {
				return err
			}
			deadline, _ := ctx.Deadline()
			_, err = c.Write(make([]byte, size))
			return errors.Join(c.SetDeadline(deadline), err, c.Close())
		})
	}()
	deadline, _ := ctx.Deadline()
	if err := listener.(*net.TCPListener).SetDeadline(deadline); err != nil {
		return err
	}
	c, err := listener.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	n, err := io.Copy(io.Discard, timed{c, deadline})
	if n != size {
		return fmt.Errorf("%s got %d of %d bytes from %s: %w", at, n, size, from.Name, err)
	}
	return <-poured
}

// timed is a connection that is read until a time.
type timed struct {
	net.Conn
	until time.Time
}

func (t timed) Read(b []byte) (int, error) {
	if err := t.SetReadDeadline(t.until); err != nil {
		return 0, err
	}
	return t.Conn.Read(b)
}

// fits wants a datagram of the size to arrive whole, and a larger one to be refused
// by the kernel of the pod that sends it, which has learned the size.
func (f *fleet) fits(ctx context.Context, to netip.Addr, size int) {
	f.t.Helper()
	echo, err := probe.ServeEcho(f.pods[1].Netns(), netip.AddrPortFrom(to, 0))
	f.must(err)
	defer echo.Close()
	f.must(probe.Eventually(ctx, func(ctx context.Context) error {
		err := probe.Whole(ctx, f.pods[0].Netns(), echo.Addr, size+1)
		if !errors.Is(err, unix.EMSGSIZE) {
			return fmt.Errorf("one byte more than %d: %w", size, err)
		}
		return nil
	}))
	f.must(probe.Whole(ctx, f.pods[0].Netns(), echo.Addr, size))
}
