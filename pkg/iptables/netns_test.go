package iptables

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// space is a network namespace of the test.
type space struct {
	t      testing.TB
	ns     *sandbox.Netns
	handle *netlink.Handle
}

// newSpace makes one that routes, and where addresses can be used at once:
// without duplicate address detection.
func newSpace(t testing.TB) space {
	t.Helper()
	s := space{t: t, ns: sandboxtest.NewNetns(t)}
	var err error
	s.handle, err = s.ns.Handle()
	must(t, err)
	t.Cleanup(s.handle.Close)
	for key, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0",
	} {
		s.in(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) })
	}
	return s
}

func (s space) in(f func() error) {
	s.t.Helper()
	sandboxtest.Do(s.t, s.ns, f)
}

// run runs a program in the namespace and returns what it prints.
func (s space) run(args ...string) string {
	s.t.Helper()
	return s.runWith("", args...)
}

func (s space) runWith(stdin string, args ...string) string {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	must(s.t, s.ns.Start(cmd))
	if err := cmd.Wait(); err != nil {
		s.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return stdout.String()
}

// sync runs k in the namespace.
func (s space) sync(k *Kernel, want State) ([]string, error) {
	s.t.Helper()
	var changes []string
	var failure error
	s.in(func() error {
		changes, failure = k.Sync(want)
		return nil
	})
	return changes, failure
}

// mustSync lets a Sync do its work and wants a second one, by a door that
// remembers nothing, to find nothing to do.
func (s space) mustSync(k *Kernel, want State) []string {
	s.t.Helper()
	changes, err := s.sync(k, want)
	must(s.t, err)
	again, err := s.sync(New(), want)
	must(s.t, err)
	if len(again) > 0 {
		s.t.Errorf("a second Sync changed %q", again)
	}
	return changes
}

func (s space) fingerprint(k *Kernel, want State) Fingerprint {
	s.t.Helper()
	var f Fingerprint
	s.in(func() (err error) {
		f, err = k.Fingerprint(want)
		return err
	})
	return f
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
		LinkAttrs: attrs, PeerName: peerName, PeerNamespace: netlink.NsFd(peer.ns.FD()),
	}))
}

func ipNet(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// variant is one of the programs that iptables can be, for one family.
type variant struct {
	family  Family
	program string // as iptables-nft
}

func (v variant) String() string { return v.program }

func (v variant) legacy() bool { return strings.HasSuffix(v.program, "legacy") }

func variants() []variant {
	return []variant{
		{IPv4, "iptables-nft"}, {IPv6, "ip6tables-nft"}, {IPv4, "iptables-legacy"}, {IPv6, "ip6tables-legacy"},
	}
}

// eachVariant runs a test with a namespace for each.
func eachVariant(t *testing.T, test func(t *testing.T, v variant, s space)) {
	for _, v := range variants() {
		t.Run(v.String(), func(t *testing.T) { test(t, v, newSpace(t)) })
	}
}

// restore has the variant's program carry out commands on a table.
func (s space) restore(v variant, table string, commands ...string) {
	s.t.Helper()
	s.runWith(fmt.Sprintf("*%s\n%s\nCOMMIT\n", table, strings.Join(commands, "\n")), v.program+"-restore", "--noflush")
}

// list is a table as the variant's program lists it.
func (s space) list(v variant, table string) []string {
	s.t.Helper()
	return strings.Split(strings.TrimSpace(s.run(v.program, "-t", table, "-S")), "\n")
}
