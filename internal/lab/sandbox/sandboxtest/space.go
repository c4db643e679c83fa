package sandboxtest

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Space is a network namespace of a test, and netlink in it. What fails ends the
// test. Addresses are of either family.
type Space struct {
	T       testing.TB
	NS      *sandbox.Netns
	Netlink *netlink.Handle
}

// NewSpace makes a namespace that routes, and where addresses can be used at
// once: without duplicate address detection. It goes with the test.
func NewSpace(t testing.TB) Space {
	t.Helper()
	s := Space{T: t, NS: NewNetns(t)}
	var err error
	s.Netlink, err = s.NS.Handle()
	s.must(err)
	t.Cleanup(s.Netlink.Close)
	for key, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0",
	} {
		s.In(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) })
	}
	return s
}

func (s Space) must(err error) {
	s.T.Helper()
	if err != nil {
		s.T.Fatal(err)
	}
}

// In is Do in the namespace.
func (s Space) In(fn func() error) {
	s.T.Helper()
	Do(s.T, s.NS, fn)
}

// Link is the interface of that name.
func (s Space) Link(name string) netlink.Link {
	s.T.Helper()
	l, err := s.Netlink.LinkByName(name)
	s.must(err)
	return l
}

// Up sets an interface up and gives it addresses, each with the length of its
// network's prefix.
func (s Space) Up(link string, addresses ...string) {
	s.T.Helper()
	l := s.Link(link)
	s.must(s.Netlink.LinkSetUp(l))
	for _, a := range addresses {
		s.must(s.Netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}))
	}
}

// Route adds a route: to, by way of (or ""), out of.
func (s Space) Route(to, via, dev string) {
	s.T.Helper()
	r := &netlink.Route{Dst: ipNet(to), LinkIndex: s.Link(dev).Attrs().Index}
	if via != "" {
		r.Gw = net.IP(netip.MustParseAddr(via).AsSlice())
		r.SetFlag(netlink.FLAG_ONLINK)
	}
	s.must(s.Netlink.RouteAdd(r))
}

// Join makes a pair of interfaces between two namespaces.
func (s Space) Join(name string, peer Space, peerName string) {
	s.T.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	s.must(s.Netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: peerName, PeerNamespace: netlink.NsFd(peer.NS.FD()),
	}))
}

func ipNet(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
