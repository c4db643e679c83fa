package hostport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

const bridgeName = "cni0"

// network is the addresses of one family in the tests.
type network struct {
	name                        string
	gateway, underlay           netip.Prefix
	host, secondHost, localhost netip.Addr // of the host
	outside                     netip.Addr
	// fromSecond is what the host calls its second address from.
	fromSecond netip.Addr
	pods       [2]netip.Addr
}

func networks() [2]network {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	return [2]network{{
		name: "IPv4", gateway: p("10.244.1.1/24"), underlay: p("192.0.2.1/24"),
		host: a("192.0.2.1"), secondHost: a("192.0.2.7"), localhost: a("127.0.0.1"), outside: a("192.0.2.2"), fromSecond: a("192.0.2.1"),
		pods: [2]netip.Addr{a("10.244.1.2"), a("10.244.1.3")},
	}, {
		name: "IPv6", gateway: p("fd00:1::1/64"), underlay: p("2001:db8::1/64"),
		host: a("2001:db8::1"), secondHost: a("2001:db8::7"), localhost: a("::1"), outside: a("2001:db8::2"), fromSecond: a("2001:db8::7"),
		pods: [2]netip.Addr{a("fd00:1::2"), a("fd00:1::3")},
	}}
}

// machine is a host with two pods on a bridge, and a client outside.
type machine struct {
	t             testing.TB
	host, outside *sandbox.Netns
	pods          [2]*sandbox.Netns
	doorsTried    uint16 // each try has a port of its own, as connection tracking remembers them
}

// pod is what the machine's pod number i is to have.
func (m *machine) pod(i int, mappings ...Mapping) Pod {
	p := Pod{Bridge: bridgeName, Mappings: mappings}
	for _, n := range networks() {
		p.Addresses = append(p.Addresses, n.pods[i])
	}
	return p
}

// wiring is how a pod's frames reach the host's IP stack.
type wiring struct {
	name string
	// callIPTables is bridge-nf-call-iptables and its like for IPv6: whether
	// the bridge asks the IP stack's rules itself (br_netfilter).
	callIPTables string
	// switched: ports are neither isolated nor without hairpin. A bridge that
	// asks the rules sends what they lead to a pod to its port at once, which
	// it does not do between isolated ports.
	switched bool
}

func routed() wiring   { return wiring{"routed", "0", false} }
func switched() wiring { return wiring{"switched by br_netfilter", "1", true} }

func newMachine(t testing.TB) *machine {
	t.Helper()
	return newMachineOn(t, routed())
}

func newMachineOn(t testing.TB, w wiring) *machine {
	t.Helper()
	m := &machine{
		t: t, host: sandboxtest.NewNetns(t), outside: sandboxtest.NewNetns(t),
		pods: [2]*sandbox.Netns{sandboxtest.NewNetns(t), sandboxtest.NewNetns(t)},
	}
	spec := bridge.Spec{Name: bridgeName, MTU: 1450}
	for _, n := range networks() {
		spec.Gateways = append(spec.Gateways, n.gateway)
	}
	sandboxtest.Do(t, m.host, func() error {
		_, err := sysctl.Sync([]sysctl.Parameter{
			{Path: "net/ipv4/ip_forward", Value: "1"}, {Path: "net/ipv6/conf/all/forwarding", Value: "1"},
			{Path: "net/ipv6/conf/default/accept_dad", Value: "0"},
		})
		if err != nil {
			return err
		}
		if err := w.set(); err != nil {
			return err
		}
		k, err := bridge.Open()
		if err != nil {
			return err
		}
		defer k.Close()
		index, err := k.Add(spec)
		for i, ns := range m.pods {
			if err == nil {
				err = attach(k, ns, index, spec, i)
			}
		}
		return err
	})
	m.plugIn()
	if w.switched {
		m.unIsolate()
	}
	return m
}

// set sets the wiring's parameters. Where there is no br_netfilter, pods are
// routed.
func (w wiring) set() error {
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		_, err := sysctl.Sync([]sysctl.Parameter{{Path: "net/bridge/" + name, Value: w.callIPTables}})
		if err != nil && (w.switched || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

func (m *machine) unIsolate() {
	m.t.Helper()
	h := handle(m.t, m.host)
	for i := range m.pods {
		l, err := h.LinkByName(fmt.Sprintf("veth%d", i))
		must(m.t, err)
		must(m.t, h.LinkSetIsolated(l, false))
		must(m.t, h.LinkSetHairpin(l, true))
	}
}

func attach(k *bridge.Kernel, ns *sandbox.Netns, index int, spec bridge.Spec, i int) error {
	f, err := os.Open(ns.Path())
	if err != nil {
		return err
	}
	defer f.Close()
	p := veth.Port{
		HostName: fmt.Sprintf("veth%d", i), IfName: "eth0", MTU: 1450,
		MAC: net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}, HostMAC: net.HardwareAddr{2, 0, 0, 0, 2, byte(i)},
	}
	for _, n := range networks() {
		p.Addresses = append(p.Addresses, veth.Address{Addr: n.pods[i], Gateway: n.gateway.Addr()})
	}
	for _, a := range p.Addresses {
		p.Routes = append(p.Routes, veth.Route{Dst: veth.AllAddresses(a.Addr), Via: a.Gateway})
	}
	_, err = veth.On(k).Add(f, index, spec, p)
	return err
}

// plugIn joins host and outside. Outside has no route to the pods.
func (m *machine) plugIn() {
	m.t.Helper()
	h := handle(m.t, m.host)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "uplink"
	must(m.t, h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(m.outside.FD())}))
	o := handle(m.t, m.outside)
	for _, n := range networks() {
		addAddress(m.t, h, "uplink", netip.PrefixFrom(n.host, n.underlay.Bits()))
		addAddress(m.t, h, "uplink", netip.PrefixFrom(n.secondHost, n.underlay.Bits()))
		addAddress(m.t, o, "eth0", netip.PrefixFrom(n.outside, n.underlay.Bits()))
	}
}

func addAddress(t testing.TB, h *netlink.Handle, link string, p netip.Prefix) {
	t.Helper()
	l, err := h.LinkByName(link)
	must(t, err)
	must(t, h.LinkSetUp(l))
	must(t, h.AddrAdd(l, &netlink.Addr{
		IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Flags: unix.IFA_F_NODAD,
	}))
}

func handle(t testing.TB, ns *sandbox.Netns) *netlink.Handle {
	t.Helper()
	h, err := ns.Handle()
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inside runs do with a Kernel of a namespace.
func inside(t testing.TB, ns *sandbox.Netns, do func(*Kernel) error) {
	t.Helper()
	must(t, tryIn(ns, do))
}

func tryIn(ns *sandbox.Netns, do func(*Kernel) error) error {
	return ns.Do(func() error {
		k, err := Open()
		if err != nil {
			return err
		}
		defer k.Close()
		return do(k)
	})
}

func (m *machine) add(p Pod) {
	m.t.Helper()
	inside(m.t, m.host, func(k *Kernel) error { return k.Add(p) })
}

func (m *machine) delete(p Pod) {
	m.t.Helper()
	inside(m.t, m.host, func(k *Kernel) error { return k.Delete(p) })
}

// patience bounds what should come at once, on a machine that is busy.
const patience = 30 * time.Second

// brief is how long a test waits for what should not come.
const brief = 150 * time.Millisecond

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
