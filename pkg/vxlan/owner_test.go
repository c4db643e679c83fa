package vxlan

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/network"
)

// stranger makes a VXLAN device that has our name and belongs to another
// program.
func (h *host) stranger(v netlink.Vxlan) {
	h.t.Helper()
	v.Name, v.UDPCSum, v.VtepDevIndex = "overlay0", true, h.index("eth0")
	h.must(h.nl.LinkAdd(&v))
	h.must(h.nl.LinkSetUp(h.link("overlay0")))
	h.addAddr("overlay0", "10.98.0.1/24")
}

func TestSyncRefusesStrangers(t *testing.T) {
	t.Parallel()
	local := net.ParseIP("192.168.77.1").To4()
	tests := []struct {
		name string
		make func(h *host)
		want []string // parts of the error
	}{
		{"a bridge", func(h *host) {
			h.must(h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "overlay0"}}))
		}, []string{`device "overlay0" is not ours`, "kind bridge instead of vxlan", `"ip link del overlay0"`, "vxlan.device"}},
		{"a bridge with our alias", func(h *host) {
			h.must(h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "overlay0"}}))
			h.must(h.nl.LinkSetAlias(h.link("overlay0"), network.Default.TunnelAlias()))
		}, []string{"kind bridge instead of vxlan"}},
		{"another VNI", func(h *host) { h.stranger(netlink.Vxlan{VxlanId: 42, Port: 4789, SrcAddr: local}) },
			[]string{"has VNI 42 instead of 1", `"ip link del overlay0"`, "vxlan.device"}},
		{"another port and address", func(h *host) {
			h.stranger(netlink.Vxlan{VxlanId: 1, Port: 8472, SrcAddr: net.ParseIP("192.168.77.7").To4()})
		}, []string{"port 8472 instead of 4789, local address 192.168.77.7 instead of 192.168.77.1"}},
		{"learning, no address", func(h *host) { h.stranger(netlink.Vxlan{VxlanId: 1, Port: 4789, Learning: true}) },
			[]string{"local address none instead of 192.168.77.1, learning on instead of off"}},
		{"further options", func(h *host) {
			h.stranger(netlink.Vxlan{VxlanId: 1, Port: 4789, SrcAddr: local, Proxy: true, GBP: true})
		},
			[]string{"further options proxy gbp"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t).withUnderlay("192.168.77.1/24")
			tt.make(h)
			before := h.dump()
			f := families()[0]
			changes, err := h.k.sync(h.want(f.underlay, f.node(1), f.nodes(2)...))
			if !errors.Is(err, ErrNotOurs) || len(changes) > 0 {
				t.Fatalf("changes are %v, error is %v", changes, err)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not contain %q", err, part)
				}
			}
			if _, err := h.k.Remove("overlay0"); !errors.Is(err, ErrNotOurs) && !strings.Contains(tt.name, "learning") {
				t.Errorf("delete returns %v", err)
			}
			if after := h.dump(); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func TestSyncTakesOverWhatIsRight(t *testing.T) {
	t.Parallel()
	h := newHost(t).withUnderlay("192.168.77.1/24")
	h.stranger(netlink.Vxlan{VxlanId: 1, Port: 4789, SrcAddr: net.ParseIP("192.168.77.1").To4()})
	index := h.index("overlay0")
	f := families()[0]
	want := h.want(f.underlay, f.node(1), f.nodes(2)...)
	h.sync(want)
	h.check(want)
	if h.index("overlay0") != index {
		t.Error("the device was made anew")
	}
}

func TestSyncReplacesWhatItClaims(t *testing.T) {
	t.Parallel()
	h := newHost(t).withUnderlay("192.168.77.1/24")
	h.stranger(netlink.Vxlan{VxlanId: 42, Port: 4789})
	f := families()[0]
	want := h.want(f.underlay, f.node(1), f.nodes(2)...)
	want.Device.Claimed = true
	h.sync(want)
	h.check(want)
}

func TestSyncNamesTheRival(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		h.must(h.nl.LinkAdd(&netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: "theirs"}, VxlanId: 1, Port: 4789, UDPCSum: true,
			SrcAddr: netip.MustParseAddr(f.underlay).AsSlice(),
		}))
		before := h.dump()
		changes, err := h.k.sync(h.want(f.underlay, f.node(1), f.nodes(2)...))
		const want = `device "theirs" has VNI 1 and port 4789: remove it with "ip link del theirs", or set vxlan.vni or vxlan.port`
		if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), want) || len(changes) > 0 {
			t.Fatalf("changes are %v, error is %v", changes, err)
		}
		if strings.Contains(err.Error(), "no such device") {
			t.Errorf("the error goes on about what follows from it: %v", err)
		}
		if after := h.dump(); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	})
}

func TestSyncTellsOfATakenPort(t *testing.T) {
	t.Parallel()
	h := newHost(t).withUnderlay("192.168.77.1/24")
	h.in(func() error {
		c, err := net.ListenPacket("udp4", ":4789")
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	})
	f := families()[0]
	want := h.want(f.underlay, f.node(1), f.nodes(2)...)
	_, err := h.k.sync(want)
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "UDP port 4789 is taken by another program") {
		t.Errorf("error is %v", err)
	}
	if errors.Is(err, ErrPeers) {
		t.Errorf("it passes for one about peers alone: %v", err)
	}
}

// Where the entries can't be read, no peer may have any: that concerns the whole
// host, and not peers alone.
func TestUnreadableEntriesAreNotAboutPeersAlone(t *testing.T) {
	h := newHost(t).withUnderlay("192.168.77.1/24")
	f := families()[0]
	want := h.want(f.underlay, f.node(1), f.nodes(2)...)
	h.sync(want)
	device, err := h.k.readDevice(want.Device)
	h.must(err)
	h.must(h.k.conn.Close())
	if _, err := h.k.syncEntries(want, device); !errors.Is(err, unix.EBADF) || errors.Is(err, ErrPeers) {
		t.Errorf("error is %v", err)
	}
}

func TestSyncRemovesOlderNames(t *testing.T) {
	t.Parallel()
	h := newHost(t).withUnderlay("192.168.77.1/24")
	f := families()[0]
	old := h.want(f.underlay, f.node(1), f.nodes(2)...)
	old.Device.Name = "oldname0"
	h.sync(old)
	want := h.want(f.underlay, f.node(1), f.nodes(2)...)
	h.sync(want)
	h.check(want)
	if _, err := h.nl.LinkByName("oldname0"); err == nil {
		t.Error("the old device is still there")
	}
}

// The device of another network of ours is no renamed device of this one.
func TestOtherNetworksStay(t *testing.T) {
	t.Parallel()
	h := newHost(t).withUnderlay("192.168.77.1/24")
	f := families()[0]
	other := h.want(f.underlay, f.node(9))
	other.Device.Name, other.Device.Alias, other.Device.Tunnel.VNI = "blue0", network.Name("blue").TunnelAlias(), 7
	h.sync(other)
	index := h.index("blue0")
	h.sync(h.want(f.underlay, f.node(1), f.nodes(2)...))
	h.remove()
	if h.index("blue0") != index {
		t.Error("the other network's device was made anew")
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	h := newHost(t).withUnderlay("192.168.77.1/24")
	before := h.dump()
	f := families()[2]
	h.sync(h.want(f.underlay, f.node(1), f.nodes(2)...))
	for range 2 {
		h.remove()
		if after := h.dump(); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
	}
}

func TestSyncWantsADevice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if _, err := h.k.sync(State{}); err == nil || !strings.Contains(err.Error(), "the desired state has no device") {
		t.Errorf("error is %v", err)
	}
}
