package firewall_test

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// enterNetns gives the calling test a network namespace of its own. The thread
// is never unlocked, so it ends together with the test's goroutine.
func enterNetns(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare: %v", err)
	}
}

// space is a network namespace beside the test's own.
type space struct {
	t      *testing.T
	fd     netns.NsHandle
	handle *netlink.Handle
}

// newSpace makes a namespace that routes, and where addresses can be used at
// once: without duplicate address detection.
func newSpace(t *testing.T) space {
	t.Helper()
	s := space{t: t}
	must(t, onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		s.fd, err = netns.Get()
		return err
	}))
	t.Cleanup(func() { _ = s.fd.Close() })
	var err error
	s.handle, err = netlink.NewHandleAt(s.fd)
	must(t, err)
	t.Cleanup(s.handle.Close)
	s.up("lo")
	for key, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0",
	} {
		s.in(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) })
	}
	return s
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// in runs f in the namespace.
func (s space) in(f func() error) {
	s.t.Helper()
	must(s.t, onThread(func() error {
		if err := netns.Set(s.fd); err != nil {
			return err
		}
		return f()
	}))
}

func (s space) link(name string) netlink.Link {
	s.t.Helper()
	l, err := s.handle.LinkByName(name)
	must(s.t, err)
	return l
}

func (s space) up(link string, addresses ...string) {
	s.t.Helper()
	l := s.link(link)
	must(s.t, s.handle.LinkSetUp(l))
	for _, a := range addresses {
		must(s.t, s.handle.AddrAdd(l, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}))
	}
}

// route adds a route: to, by way of, out of.
func (s space) route(to, via, dev string) {
	s.t.Helper()
	r := &netlink.Route{Dst: ipNet(to), LinkIndex: s.link(dev).Attrs().Index}
	if via != "" {
		r.Gw = net.IP(netip.MustParseAddr(via).AsSlice())
		r.SetFlag(netlink.FLAG_ONLINK)
	}
	must(s.t, s.handle.RouteAdd(r))
}

// join makes a pair of interfaces between two namespaces.
func (s space) join(name string, peer space, peerName string) {
	s.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(s.t, s.handle.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: peerName, PeerNamespace: netlink.NsFd(peer.fd),
	}))
}

func ipNet(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
