package bridge

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

func prefixes(texts ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range texts {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func TestPlan(t *testing.T) {
	want := Spec{Name: "cni0", MTU: 1450, Gateways: prefixes("10.244.1.1/24", "fd00::1/64")}.Want()
	forwards := map[family.Family]bool{family.IPv4: true, family.IPv6: true}
	right := Bridge{Name: "cni0", MTU: 1450, MAC: want.MAC, Up: true, Resolves: true, Forwards: forwards, Sysctls: want.Sysctls, Addresses: want.Addresses}
	changed := func(change func(*Bridge)) *Bridge {
		b := right
		change(&b)
		return &b
	}
	for _, tc := range []struct {
		name string
		have *Bridge
		want []string
	}{
		{"all is right", &right, nil},
		{"none", nil, []string{
			"create cni0", "set MTU of cni0: 1450", "set a sysctl of cni0: net.ipv6.conf.cni0.accept_ra=0", "set a sysctl of cni0: net.ipv6.conf.cni0.disable_ipv6=0", "turn forwarding on for cni0: net.ipv4.conf.all.forwarding", "turn forwarding on for cni0: net.ipv6.conf.all.forwarding", "set up cni0",
			"add address to cni0: fe80::1/64", "add address to cni0: 10.244.1.1/24", "add address to cni0: fd00::1/64",
		}},
		{"down", changed(func(b *Bridge) { b.Up = false }), []string{"set up cni0"}},
		{"router advertisements", changed(func(b *Bridge) { b.Sysctls = []sysctl.Parameter{{Path: want.Sysctls[0].Path, Value: "1"}} }),
			[]string{"set a sysctl of cni0: net.ipv6.conf.cni0.accept_ra=0"}},
		{"no IPv6 in the kernel", changed(func(b *Bridge) { b.Sysctls = nil }), nil},
		{"no ARP", changed(func(b *Bridge) { b.Resolves = false }), []string{"turn ARP and multicast on for cni0"}},
		{"in a VRF", changed(func(b *Bridge) { b.Master = 7 }), []string{"take off its master: cni0"}},
		{"a spanning tree", changed(func(b *Bridge) { b.Altered = []setting{{rtnl.BridgeSTP, 0}} }), []string{"set an option of cni0: stp_state 0"}},
		{"MTU", changed(func(b *Bridge) { b.MTU = 1500 }), []string{"set MTU of cni0: 1450"}},
		{"MAC", changed(func(b *Bridge) { b.MAC = nil }), []string{"set MAC of cni0: " + want.MAC.String()}},
		{"forwarding", changed(func(b *Bridge) { b.Forwards = nil }), []string{"turn forwarding on for cni0: net.ipv4.conf.all.forwarding", "turn forwarding on for cni0: net.ipv6.conf.all.forwarding"}},
		{"IPv4 address", changed(func(b *Bridge) { b.Addresses = prefixes("10.244.9.1/24", "fd00::1/64", "fe80::1/64") }), []string{
			"add address to cni0: 10.244.1.1/24", "delete address of cni0: 10.244.9.1/24",
		}},
		{"IPv6 address", changed(func(b *Bridge) { b.Addresses = prefixes("10.244.1.1/24", "fd00::1/56", "fe80::1/64") }), []string{
			"delete address of cni0: fd00::1/56", "add address to cni0: fd00::1/64",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, o := range plan(want, tc.have) {
				got = append(got, o.String())
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

// inNetns runs fn with a Kernel of a namespace of its own.
func inNetns(t *testing.T, fn func(k *Kernel, h *netlink.Handle) error) {
	t.Helper()
	ns := sandboxtest.NewNetns(t)
	h, err := ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	sandboxtest.Do(t, ns, func() error {
		k, err := Open()
		if err != nil {
			return err
		}
		defer k.Close()
		return fn(k, h)
	})
}

// TestSyncMends breaks a bridge in every way and looks that one Sync mends it,
// and the next one finds nothing to do.
func TestSyncMends(t *testing.T) {
	for mode, gateways := range map[string][]netip.Prefix{
		"IPv4": prefixes("10.244.1.1/24"), "IPv6": prefixes("fd00::1/64"), "dual stack": prefixes("10.244.1.1/24", "fd00::1/64"),
	} {
		spec := Spec{Name: "cni0", MTU: 1450, Gateways: gateways}
		for name, damage := range damages(gateways[len(gateways)-1]) {
			t.Run(mode+"/"+name, func(t *testing.T) {
				inNetns(t, func(k *Kernel, h *netlink.Handle) error {
					if _, err := k.Sync(spec); err != nil {
						return err
					}
					if err := damage(h); err != nil {
						return err
					}
					changes, err := k.Sync(spec)
					if (len(changes) == 0) != (name == "nothing") {
						t.Errorf("it changed %q", changes)
					}
					again, err2 := k.Sync(spec)
					if len(again) > 0 {
						t.Errorf("the second Sync changed %q", again)
					}
					return errors.Join(err, err2)
				})
			})
		}
	}
}

// Each option of the bridge that the kernel has is kept.
func TestSyncKeepsOptions(t *testing.T) {
	inNetns(t, func(k *Kernel, _ *netlink.Handle) error {
		spec := Spec{Name: "cni0", MTU: 1450, Gateways: prefixes("10.244.1.1/24")}
		if _, err := k.Sync(spec); err != nil {
			return err
		}
		for _, o := range options() {
			link, err := k.conn.Bridge("cni0")
			if err != nil {
				return err
			}
			if _, known := link.Option(o.BridgeOption); !known {
				t.Logf("this kernel has no %s", o.Name)
				continue
			}
			var b rtnl.Batch
			b.SetBridgeOption("cni0", o.BridgeOption, 1-min(o.value, 1))
			if err := k.conn.Run(&b); errors.Is(err, unix.EOPNOTSUPP) {
				t.Logf("this kernel has no %s", o.Name)
				continue
			} else if err != nil {
				return err
			}
			changes, err := k.Sync(spec)
			if err != nil || len(changes) != 1 || !strings.Contains(changes[0], o.Name) {
				t.Errorf("%s: changed %q, %v", o.Name, changes, err)
			}
			if again, err := k.Sync(spec); err != nil || len(again) > 0 {
				t.Errorf("%s: the second time it changed %q, %v", o.Name, again, err)
			}
			if _, err := k.Add(spec); err != nil {
				t.Errorf("%s: %v", o.Name, err)
			}
		}
		return nil
	})
}

// damages are done to the bridge cni0 with that gateway.
func damages(gateway netip.Prefix) map[string]func(h *netlink.Handle) error {
	shorter := netip.PrefixFrom(gateway.Addr(), gateway.Bits()-8)
	all := map[string]func(h *netlink.Handle) error{}
	for name, do := range map[string]func(h *netlink.Handle, l netlink.Link) error{
		"nothing":   func(*netlink.Handle, netlink.Link) error { return nil },
		"deleted":   func(h *netlink.Handle, l netlink.Link) error { return h.LinkDel(l) },
		"set down":  func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetDown(l) },
		"other MTU": func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, 1000+300) },
		"other MAC": func(h *netlink.Handle, l netlink.Link) error {
			return h.LinkSetHardwareAddr(l, []byte{2, 0, 0, 0, 0, 1})
		},
		"accepts router advertisements": func(*netlink.Handle, netlink.Link) error {
			_, err := sysctl.Sync([]sysctl.Parameter{sysctl.IPv6("cni0", sysctl.AcceptRA, "2")})
			return err
		},
		"no ARP":          func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetARPOff(l) },
		"no multicast":    func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMulticastOff(l) },
		"address removed": func(h *netlink.Handle, l netlink.Link) error { return h.AddrDel(l, address(gateway.String())) },
		"other prefix length": func(h *netlink.Handle, l netlink.Link) error {
			return errors.Join(h.AddrDel(l, address(gateway.String())), h.AddrAdd(l, address(shorter.String())))
		},
		"unmanaged IPv4 address": func(h *netlink.Handle, l netlink.Link) error { return h.AddrAdd(l, address("192.0.2.1/24")) },
		"unmanaged IPv6 address": func(h *netlink.Handle, l netlink.Link) error { return h.AddrAdd(l, address("fd00:9::1/64")) },
	} {
		all[name] = func(h *netlink.Handle) error {
			l, err := h.LinkByName("cni0")
			if err != nil {
				return err
			}
			return do(h, l)
		}
	}
	return all
}

func address(text string) *netlink.Addr {
	p := netip.MustParsePrefix(text)
	return &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
}

// Add repairs what makes pods unreachable, and leaves settings that other
// networks may want.
func TestAdd(t *testing.T) {
	for mode, gateways := range map[string][]netip.Prefix{
		"IPv4": prefixes("10.244.1.1/24"), "IPv6": prefixes("fd00::1/64"), "dual stack": prefixes("10.244.1.1/24", "fd00::1/64"),
	} {
		spec := Spec{Name: "cni0", MTU: 1450, Gateways: gateways}
		for name, damage := range damages(gateways[0]) {
			t.Run(mode+"/"+name, func(t *testing.T) {
				inNetns(t, func(k *Kernel, h *netlink.Handle) error {
					if _, err := k.Add(spec); err != nil {
						return err
					}
					if err := damage(h); err != nil {
						return err
					}
					before, _ := h.LinkByName("cni0")
					index, err := k.Add(spec)
					if err != nil {
						return err
					}
					after, err := h.LinkByName("cni0")
					if err != nil || index != after.Attrs().Index || after.Attrs().Flags&net.FlagUp == 0 {
						t.Errorf("it has index %d (%v), and the bridge is %+v", index, err, after)
					}
					if before != nil && (after.Attrs().MTU != before.Attrs().MTU || after.Attrs().HardwareAddr.String() != before.Attrs().HardwareAddr.String()) {
						t.Errorf("it was %+v, and is %+v", before, after)
					}
					return err
				})
			})
		}
	}
}

func TestAddRefusesAnotherDevice(t *testing.T) {
	inNetns(t, func(k *Kernel, h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "cni0"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "other"}); err != nil {
			return err
		}
		if _, err := k.Add(Spec{Name: "cni0", MTU: 1450, Gateways: prefixes("10.244.1.1/24")}); !errors.Is(err, ErrUnmanaged) {
			t.Errorf("got %v, want %v", err, ErrUnmanaged)
		}
		want := `lo is not a bridge: set the key "bridge" to another name` // nobody can remove lo
		if _, err := k.Add(Spec{Name: "lo", MTU: 1450}); !errors.Is(err, ErrUnmanaged) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		return nil
	})
}

func TestAddLeavesOthersAddresses(t *testing.T) {
	inNetns(t, func(k *Kernel, _ *netlink.Handle) error {
		one := Spec{Name: "cni0", MTU: 1500, Gateways: prefixes("10.244.1.1/24")}
		two := Spec{Name: "cni0", MTU: 1400, Gateways: prefixes("10.244.1.1/24", "10.9.0.1/24")}
		for _, s := range []Spec{one, two, one} {
			if _, _, err := k.sync(s.Want(), addOnly); err != nil {
				return err
			}
		}
		_, b, err := k.read(two.Want())
		if err == nil && !slices.Equal(b.Addresses, two.Gateways) {
			t.Errorf("the bridge has %v, want %v", b.Addresses, two.Gateways)
		}
		return err
	})
}

// A bridge that follows the MTU of its ports has another one when the last of
// them goes.
func TestMTUOutlivesTheLastPort(t *testing.T) {
	for name, build := range map[string]func(*Kernel, Spec) error{
		"daemon": func(k *Kernel, s Spec) error { _, err := k.Sync(s); return err },
		"plugin": func(k *Kernel, s Spec) error { _, err := k.Add(s); return err },
	} {
		t.Run(name, func(t *testing.T) {
			inNetns(t, func(k *Kernel, h *netlink.Handle) error {
				if err := build(k, Spec{Name: "cni0", MTU: 1450, Gateways: prefixes("10.244.1.1/24")}); err != nil {
					return err
				}
				bridge, err := h.LinkByName("cni0")
				if err != nil {
					return err
				}
				port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port", MTU: 1450, MasterIndex: bridge.Attrs().Index}, PeerName: "far"}
				if err := errors.Join(h.LinkAdd(port), h.LinkDel(port)); err != nil {
					return err
				}
				bridge, err = h.LinkByName("cni0")
				if err == nil && bridge.Attrs().MTU != 1450 {
					t.Errorf("the MTU is %d", bridge.Attrs().MTU)
				}
				return err
			})
		})
	}
}
