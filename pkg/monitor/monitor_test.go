package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

const (
	// patience bounds every wait.
	patience  = 10 * time.Second
	noAddress = "1" // IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
)

// host is a network namespace with a tunnel and a bridge, and a monitor in it.
type host struct {
	t        *testing.T
	ns       *sandbox.Netns
	handle   *netlink.Handle
	tunnel   int
	reported chan struct{}
	pods     atomic.Int64 // changes of pods' ports alone
	count    atomic.Int64 // changes of the network
	stop     func() error

	routes   byte          // that settle has added
	settling atomic.Bool   // the next report covers settle's last route
	settled  chan struct{} // that report has come
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, ns: sandboxtest.NewNetns(t), reported: make(chan struct{}, 1), settled: make(chan struct{}, 1)}
	var err error
	h.handle, err = h.ns.Handle()
	h.must(err)
	t.Cleanup(h.handle.Close)
	// The kernel would add link-local addresses late, after other changes.
	h.must(write("net/ipv6/conf/default/addr_gen_mode", noAddress)(h))
	h.must(h.handle.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "overlay0"}, VxlanId: 1, Port: 4789}))
	// With an address of its own, as ours has, or it would follow the ports'.
	h.must(h.handle.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0", HardwareAddr: mac()}}))
	for _, name := range []string{"overlay0", "cni0"} {
		h.must(h.handle.LinkSetUp(h.link(name)))
	}
	h.tunnel = h.link("overlay0").Attrs().Index
	h.watch()
	return h
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) link(name string) netlink.Link {
	h.t.Helper()
	l, err := h.handle.LinkByName(name)
	h.must(err)
	return l
}

// watch starts the monitor and waits for its first report.
func (h *host) watch() {
	h.t.Helper()
	h.run(h.changed)
	h.isReported("that it watches")
}

// run starts a monitor that ends with the test or by stop.
func (h *host) run(changed func(Change)) {
	h.t.Helper()
	h.start(func(ctx context.Context) error { return Watch(ctx, h.own, changed) })
}

const (
	others   = 200 // the routing protocol that another part watches
	settling = 201 // that of settle's routes
)

// own is called while the monitor reads notifications, before it reports them.
func (h *host) own(protocol uint8) bool {
	if protocol == settling {
		h.settling.Store(true)
	}
	return protocol == others
}

// start runs a monitor in the namespace.
func (h *host) start(watch func(context.Context) error) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- h.ns.Do(func() error { return watch(ctx) })
	}()
	h.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("the monitor does not end")
		}
	})
	h.t.Cleanup(func() {
		if err := h.stop(); err != nil {
			h.t.Error(err)
		}
	})
}

func (h *host) changed(c Change) {
	if c&Network == 0 {
		h.pods.Add(1)
		return
	}
	h.count.Add(1)
	select {
	case h.reported <- struct{}{}:
	default:
	}
	if h.settling.Swap(false) {
		h.settled <- struct{}{}
	}
}

func (h *host) isReported(what string) {
	h.t.Helper()
	select {
	case <-h.reported:
	case <-time.After(patience):
		h.t.Errorf("the monitor did not report: %s", what)
	}
}

// settle returns when the monitor has reported all changes so far. Notifications
// come in order, so settle makes one more change and waits for its report.
func (h *host) settle() {
	h.t.Helper()
	h.routes++
	dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 255, h.routes, 0}), 24)
	h.must(h.handle.RouteAdd(&netlink.Route{Dst: ipNet(dst.String()), Type: unix.RTN_BLACKHOLE, Protocol: settling}))
	select {
	case <-h.settled:
	case <-time.After(patience):
		h.t.Fatal("the monitor reports nothing")
	}
	select {
	case <-h.reported:
	default:
	}
}

// changes must be reported one by one. Each begins where the previous one ended.
func changes() []struct {
	name string
	do   func(*host) error
} {
	route := func(h *host, dst string) *netlink.Route {
		return &netlink.Route{LinkIndex: h.tunnel, Dst: ipNet(dst), Gw: via(dst), Flags: int(netlink.FLAG_ONLINK)}
	}
	address := func(prefix string) *netlink.Addr { return &netlink.Addr{IPNet: ipNet(prefix), Flags: unix.IFA_F_NODAD} }
	return []struct {
		name string
		do   func(*host) error
	}{
		{"an IPv4 address comes", func(h *host) error { return h.handle.AddrAdd(h.link("cni0"), address("10.1.0.1/24")) }},
		{"an IPv4 address goes", func(h *host) error { return h.handle.AddrDel(h.link("cni0"), address("10.1.0.1/24")) }},
		{"an IPv6 address comes", func(h *host) error { return h.handle.AddrAdd(h.link("cni0"), address("fd01::1/64")) }},
		{"an IPv6 address goes", func(h *host) error { return h.handle.AddrDel(h.link("cni0"), address("fd01::1/64")) }},
		{"an IPv4 route comes", func(h *host) error { return h.handle.RouteAdd(route(h, "10.2.0.0/24")) }},
		{"an IPv4 route goes", func(h *host) error { return h.handle.RouteDel(route(h, "10.2.0.0/24")) }},
		{"an IPv6 route comes", func(h *host) error { return h.handle.RouteAdd(route(h, "fd02::/64")) }},
		{"an IPv6 route goes", func(h *host) error { return h.handle.RouteDel(route(h, "fd02::/64")) }},
		{"IPv4 forwarding is turned on", write("net/ipv4/ip_forward", "1")},
		{"IPv4 forwarding is turned off", write("net/ipv4/ip_forward", "0")},
		{"IPv6 forwarding is turned on", write("net/ipv6/conf/all/forwarding", "1")},
		{"IPv6 forwarding is turned off", write("net/ipv6/conf/all/forwarding", "0")},
		{"forwarding of the bridge is turned on", write("net/ipv4/conf/cni0/forwarding", "1")},
		{"the bridge becomes strict about sources", write("net/ipv4/conf/cni0/rp_filter", "1")},
		{"the host becomes strict about sources", write("net/ipv4/conf/all/rp_filter", "1")},
		{"a link's MTU changes", func(h *host) error { return h.handle.LinkSetMTU(h.link("overlay0"), 1400) }},
		{"a link goes down", func(h *host) error { return h.handle.LinkSetDown(h.link("overlay0")) }},
		{"a link goes up", func(h *host) error { return h.handle.LinkSetUp(h.link("overlay0")) }},
		{"an interface appears", func(h *host) error {
			return h.handle.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}})
		}},
		{"a link is renamed", func(h *host) error { return h.handle.LinkSetName(h.link("eth1"), "eth2") }},
		{"a link is deleted", func(h *host) error { return h.handle.LinkDel(h.link("overlay0")) }},
	}
}

func ipNet(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func via(dst string) net.IP { return netip.MustParsePrefix(dst).Addr().Next().AsSlice() }

func mac() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, 1} }

func write(path, value string) func(*host) error {
	return func(h *host) error {
		return h.ns.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0) })
	}
}

func TestChangesAreReported(t *testing.T) {
	h := newHost(t)
	for _, c := range changes() {
		h.settle()
		h.must(c.do(h))
		h.isReported(c.name)
	}
}

// Pods and their neighbours come and go without a change of the network.
func TestEverydayTrafficIsNoChangeOfTheNetwork(t *testing.T) {
	h := newHost(t)
	pod := sandboxtest.NewNetns(t)
	far, err := pod.Handle()
	h.must(err)
	defer far.Close()
	// The first port gives the bridge its carrier, which is a change.
	h.must(h.handle.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vethfirst", MasterIndex: h.link("cni0").Attrs().Index}, PeerName: "far"}))
	h.must(h.handle.LinkSetUp(h.link("vethfirst")))
	h.must(h.handle.LinkSetUp(h.link("far")))
	for _, name := range []string{"cni0", "vethfirst", "far"} {
		h.await(name+" has a carrier", func() bool { return h.link(name).Attrs().OperState == netlink.OperUp })
	}
	h.settle()
	h.pods.Store(0)
	before := h.count.Load()
	for _, do := range []func() error{
		func() error {
			return h.handle.LinkAdd(&netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: "veth0123456789a", MasterIndex: h.link("cni0").Attrs().Index},
				PeerName:  "eth0", PeerNamespace: netlink.NsFd(pod.FD()),
			})
		},
		func() error { return h.handle.LinkSetUp(h.link("veth0123456789a")) },
		func() error {
			eth0, err := far.LinkByName("eth0")
			return errors.Join(err, far.LinkSetUp(eth0))
		},
		func() error { return h.handle.LinkSetAlias(h.link("veth0123456789a"), "shop/cart-0") },
		func() error {
			return h.handle.NeighSet(&netlink.Neigh{
				LinkIndex: h.link("cni0").Attrs().Index, IP: net.IPv4(10, 1, 0, 5), HardwareAddr: mac(), State: netlink.NUD_REACHABLE,
			})
		},
		func() error { return h.handle.LinkDel(h.link("veth0123456789a")) },
		func() error {
			r := &netlink.Route{LinkIndex: h.tunnel, Dst: ipNet("10.2.0.0/24"), Protocol: others}
			return errors.Join(h.handle.RouteAdd(r), h.handle.RouteDel(r))
		},
	} {
		h.must(do())
	}
	// Before settle, whose change may be reported together with those before it.
	h.await("the pod's port is reported", func() bool { return h.pods.Load() > 0 })
	h.settle()
	if n := h.count.Load() - before; n != 1 { // settle's own
		t.Errorf("%d changes of the network were reported", n-1)
	}
}

// await polls until something is so.
func (h *host) await(what string, isSo func() bool) {
	h.t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.After(patience); !isSo(); {
		select {
		case <-ticker.C:
		case <-deadline:
			h.t.Fatalf("not after %v: %s", patience, what)
		}
	}
}

// A lost notification counts as a change, because nobody knows what changed.
func TestLostNotificationsAreReported(t *testing.T) {
	h := newHost(t)
	h.must(h.stop())
	// Changes of this link are no changes of the network.
	h.must(h.handle.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "vethnoise"}}))
	noise := h.link("vethnoise")
	h.must(h.handle.LinkSetUp(noise)) // or the kernel notifies nobody of its alias
	watching, lost := make(chan struct{}), make(chan struct{})
	begin := sync.OnceFunc(func() {
		close(watching)
		<-lost // nothing is read meanwhile
	})
	h.run(func(c Change) {
		begin()
		h.changed(c)
	})
	<-watching
	for i := 0; h.drops() == 0; i++ {
		if i > 100_000 {
			t.Fatal("the buffer has no end")
		}
		h.must(h.handle.LinkSetAlias(noise, fmt.Sprint("noise ", i)))
	}
	before := h.count.Load()
	close(lost)
	const reports = 2 // that it watches, and the loss
	h.await("the loss is reported", func() bool { return h.count.Load() == before+reports })
}

// drops is the number of messages that did not fit into the buffers of the
// namespace's netlink sockets.
func (h *host) drops() int {
	h.t.Helper()
	var text []byte
	h.must(h.ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/netlink")
		return err
	}))
	const column = 8
	sum := 0
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > column {
			n, _ := strconv.Atoi(fields[column]) // of the head line: 0
			sum += n
		}
	}
	return sum
}

func TestWatchEnds(t *testing.T) {
	h := newHost(t)
	before := sockets(t)
	h.must(h.stop())
	if after := sockets(t); after != before-1 {
		t.Errorf("%d sockets are open, before %d", after, before)
	}
	calls := h.count.Load()
	h.must(h.handle.LinkSetAlias(h.link("cni0"), "ignored"))
	if n := h.count.Load() - calls; n != 0 {
		t.Errorf("%d calls after the end", n)
	}
}

func sockets(t *testing.T) int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range names {
		if target, err := os.Readlink(name); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

func FuzzTableOf(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 8, 0, 1, 0, 'o', 'v', 'e', 0})
	f.Fuzz(func(t *testing.T, body []byte) { // must not panic
		if table := tableOf(nl.Message{Body: body}); len(table.Name) > len(body) {
			t.Errorf("a name of %d bytes was read from %d", len(table.Name), len(body))
		}
	})
}
