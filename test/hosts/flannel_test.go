package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// flannel is what flanneld v0.28 and the plugins flannel, bridge and host-local make
// on a host: a VXLAN device of each family with entries for each other host, a bridge
// cni0, and rules of iptables.
type flannel struct {
	host  *lab.Host
	macs  map[string]net.HardwareAddr // of the device of each family
	ports int
}

// flannelDevice names the device of the family of a subnet.
func flannelDevice(subnet netip.Prefix) string {
	if subnet.Addr().Is4() {
		return "flannel.1"
	}
	return "flannel-v6.1"
}

// withFlannel puts flannel on all hosts of a fleet.
func (f *fleet) withFlannel() []*flannel {
	f.t.Helper()
	var all []*flannel
	for i, h := range f.hosts {
		fl := &flannel{host: h, macs: map[string]net.HardwareAddr{}}
		all = append(all, fl)
		nl := h.Handle()
		uplink, err := nl.LinkByName("eth0")
		f.must(err)
		f.must(nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0", MTU: 1430}}))
		bridge, err := nl.LinkByName("cni0")
		f.must(err)
		f.must(nl.LinkSetUp(bridge))
		for _, s := range h.Subnets() {
			source := h.Addresses()[slices.IndexFunc(h.Addresses(), func(a netip.Addr) bool { return a.Is4() == s.Addr().Is4() })]
			mac := net.HardwareAddr{0xc2, 0xd4, byte(i), 0x1e, 2, 0x77}
			name := flannelDevice(s)
			f.must(nl.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1430, HardwareAddr: mac}, VxlanId: 1, Port: 8472,
				SrcAddr: source.AsSlice(), VtepDevIndex: uplink.Attrs().Index,
			}))
			device, err := nl.LinkByName(name)
			f.must(err)
			f.must(nl.AddrAdd(device, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(s.Addr(), s.Addr().BitLen()).String())}))
			f.must(nl.LinkSetUp(device))
			f.must(nl.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(s.Addr().Next(), s.Bits()).String())}))
			fl.macs[name] = mac
		}
		f.on(h.Netns(), func() error {
			return errors.Join(writeSysctl("net/ipv4/conf/all/forwarding", "1"), writeSysctl("net/ipv6/conf/all/forwarding", "1"))
		})
	}
	for i, fl := range all {
		for j, other := range all {
			if i != j {
				f.peer(fl, other)
			}
		}
		f.flannelRules(fl.host)
	}
	return all
}

// peer makes the entries for another host.
func (f *fleet) peer(on, other *flannel) {
	f.t.Helper()
	nl := on.host.Handle()
	for i, s := range other.host.Subnets() {
		device, err := nl.LinkByName(flannelDevice(s))
		f.must(err)
		mac := other.macs[flannelDevice(s)]
		f.must(nl.NeighSet(&netlink.Neigh{LinkIndex: device.Attrs().Index, State: netlink.NUD_PERMANENT, IP: s.Addr().AsSlice(), HardwareAddr: mac}))
		f.must(nl.NeighSet(&netlink.Neigh{
			LinkIndex: device.Attrs().Index, State: netlink.NUD_PERMANENT, Family: 7, Flags: netlink.NTF_SELF, // AF_BRIDGE
			IP: other.host.Addresses()[i].AsSlice(), HardwareAddr: mac,
		}))
		f.must(nl.RouteReplace(&netlink.Route{LinkIndex: device.Attrs().Index, Dst: ipNetOf(s), Gw: s.Addr().AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
	}
}

// flannelRules are those of flannel's iptables manager, and a chain of portmap.
func (f *fleet) flannelRules(h *lab.Host) {
	f.t.Helper()
	for _, s := range h.Subnets() {
		program, network, multicast := "iptables-nft-restore", podNet4, "224.0.0.0/4"
		if s.Addr().Is6() {
			program, network, multicast = "ip6tables-nft-restore", podNet6, "ff00::/8"
		}
		rules := strings.NewReplacer("NET", network, "OWN", s.String(), "MULTI", multicast).Replace(`*filter
:FORWARD DROP
:FLANNEL-FWD -
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s NET -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d NET -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
*nat
:FLANNEL-POSTRTG -
:CNI-HOSTPORT-DNAT -
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s OWN -d NET -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s NET -d OWN -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s NET -d OWN -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s NET ! -d MULTI -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s NET -d NET -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
`)
		f.loadRules(h, program, rules)
	}
}

// loadRules runs iptables-restore or ip6tables-restore.
func (f *fleet) loadRules(h *lab.Host, program, rules string) {
	f.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(program, "--noflush")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(rules), &out, &out
	f.must(h.Netns().Start(cmd))
	if err := cmd.Wait(); err != nil {
		f.t.Fatalf("%s: %v, %s", program, err, &out)
	}
}

// flannelPort is a name as the plugin bridge gives.
func flannelPort(n int) string { return fmt.Sprintf("veth%08x", 0xdeadbe00+n) }

// flannelPod makes a pod as the plugin bridge does, with the n-th addresses.
func (f *fleet) flannelPod(fl *flannel, n byte) place {
	f.t.Helper()
	nl, ns := fl.host.Handle(), sandboxtest.NewNetns(f.t)
	bridge, err := nl.LinkByName("cni0")
	f.must(err)
	fl.ports++
	name := flannelPort(fl.ports)
	f.must(nl.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1430, MasterIndex: bridge.Attrs().Index},
		PeerName:  "eth0", PeerNamespace: netlink.NsFd(ns.FD()),
	}))
	port, err := nl.LinkByName(name)
	f.must(errors.Join(err, nl.LinkSetHairpin(port, true), nl.LinkSetUp(port)))
	inPod := netlinkIn(f.t, ns)
	eth0, err := inPod.LinkByName("eth0")
	f.must(err)
	p := place{ns: ns}
	sandboxtest.Do(f.t, ns, func() error { return writeSysctl("net/ipv6/conf/eth0/accept_dad", "0") })
	f.must(inPod.LinkSetUp(eth0))
	for _, s := range fl.host.Subnets() {
		b := s.Addr().AsSlice()
		b[len(b)-1] = n
		a, _ := netip.AddrFromSlice(b)
		p.addresses = append(p.addresses, a)
		f.must(inPod.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, s.Bits()).String())}))
		f.must(inPod.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: s.Addr().Next().AsSlice()}))
	}
	return p
}

func writeSysctl(path, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0o644)
}

// Leaving flannel as docs/install.md describes it: our daemons start beside flannel,
// then each host's routes of flannel are moved to our tunnel, and at last its devices and rules.
// No packet between pods is lost, old or new ones, and no new pod gets the address of
// one that flannel's plugins made.
func TestLeavingFlannel(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newIdleFleet(t, 2, m.set, withHealth), withPatience(t)
		flannels := f.withFlannel()
		a, b := f.hosts[0], f.hosts[1]
		old := []place{f.flannelPod(flannels[0], 2), f.flannelPod(flannels[1], 2)}
		second := f.flannelPod(flannels[0], 3)
		f.quiet(ctx)
		streams := f.converse(ctx, old[0], old[1])
		streams = append(streams, f.converse(ctx, old[0], second)...)

		for _, h := range f.hosts {
			f.launch(h)
			f.eventually(ctx, func(ctx context.Context) error {
				return says(ctx, h, "/readyz", http.StatusOK, "flannel", "Leaving flannel")
			})
		}
		f.goesOn(ctx, streams)
		var pods []place
		for _, h := range f.hosts {
			for i := range 3 {
				p := placeOf(f.addPod(ctx, h, fmt.Sprint("new", i)))
				for _, o := range append(slices.Clone(old), second) {
					for _, address := range p.addresses {
						if slices.Contains(o.addresses, address) {
							t.Errorf("a new pod got %s, which a pod of flannel has", address)
						}
					}
				}
				pods = append(pods, p)
			}
		}
		f.goesOn(ctx, streams)
		for _, pair := range [][2]place{{pods[0], pods[3]}, {pods[0], pods[1]}, {pods[0], old[1]}, {old[0], pods[3]}} {
			streams = append(streams, f.converse(ctx, pair[0], pair[1])...)
		}
		for i, h := range []*lab.Host{a, b} {
			for _, s := range h.Subnets() {
				f.moveRoutes(h, flannelDevice(s))
			}
			f.eventually(ctx, func(context.Context) error { return knows(h, entries(f.hosts[1-i])) })
			f.goesOn(ctx, streams)
		}
		for _, h := range f.hosts {
			f.removeFlannelRules(h)
			for _, s := range h.Subnets() {
				f.must(onLink(flannelDevice(s), (*netlink.Handle).LinkDel)(h.Handle()))
			}
			f.eventually(ctx, func(ctx context.Context) error {
				if says(ctx, h, "/readyz", http.StatusOK, "lannel") == nil {
					return errors.New("/readyz still tells of flannel")
				}
				return says(ctx, h, "/readyz", http.StatusOK, "network: ok\n", "Recreate the pods")
			})
		}
		f.end(ctx, streams)
		for i, h := range f.hosts {
			for n := range flannels[i].ports {
				f.must(onLink(flannelPort(n+1), (*netlink.Handle).LinkDel)(h.Handle()))
			}
			f.eventuallyReady(ctx, h)
		}
	})
}

// moveRoutes moves a device's routes to our tunnel, each in one step. For IPv6 the
// kernel wants a route to the next hop on the new device first.
func (f *fleet) moveRoutes(h *lab.Host, device string) {
	f.t.Helper()
	nl := h.Handle()
	from, err := nl.LinkByName(device)
	f.must(err)
	to, err := nl.LinkByName(tunnel)
	f.must(err)
	for _, r := range listed(f, func() ([]netlink.Route, error) { return nl.RouteList(from, netlink.FAMILY_ALL) }) {
		if r.Gw == nil {
			continue
		}
		toHop := &netlink.Route{LinkIndex: to.Attrs().Index, Dst: netlink.NewIPNet(r.Gw)}
		if r.Gw.To4() == nil {
			f.must(nl.RouteReplace(toHop))
		}
		f.must(nl.RouteReplace(&netlink.Route{LinkIndex: to.Attrs().Index, Dst: r.Dst, Gw: r.Gw, Flags: int(netlink.FLAG_ONLINK), Priority: r.Priority}))
	}
}

func (f *fleet) removeFlannelRules(h *lab.Host) {
	f.t.Helper()
	for _, s := range h.Subnets() {
		program := map[bool]string{true: "iptables-nft-restore", false: "ip6tables-nft-restore"}[s.Addr().Is4()]
		f.loadRules(h, program, `*filter
-P FORWARD ACCEPT
-D FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-F FLANNEL-FWD
-X FLANNEL-FWD
COMMIT
*nat
-D POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-F FLANNEL-POSTRTG
-X FLANNEL-POSTRTG
-X CNI-HOSTPORT-DNAT
COMMIT
`)
	}
}
