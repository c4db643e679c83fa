package vxlan

import (
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestSyncCreatesEverything(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		want := h.want(f.underlay, f.node(1), f.nodes(1, 2, 3)...)
		if changes := h.sync(want); !contains(changes, CreateDevice) {
			t.Errorf("changes do not tell of the device: %s", changes)
		}
		h.check(want)
	})
}

// The device is read back with the library, independently of our own reading.
func TestDeviceAttributes(t *testing.T) {
	t.Parallel()
	for f, overhead := range map[string]int{"192.168.77.1": 50, "fd77::1": 70} {
		t.Run(f, func(t *testing.T) {
			t.Parallel()
			h := newHost(t).withUnderlay("192.168.77.1/24", "fd77::1/64")
			want := h.want(f, node("a", f, "10.244.1.0/24 fd44::/64"))
			h.sync(want)
			got, ok := h.link("overlay0").(*netlink.Vxlan)
			if !ok {
				t.Fatalf("overlay0 is %T", h.link("overlay0"))
			}
			type attributes struct {
				VNI, Port, Underlay, MTU int
				Local, MAC, Alias        string
				Learning, Up, NoGroup    bool
			}
			diff := cmp.Diff(attributes{
				1, 4789, h.index("eth0"), 1500 - overhead, f, want.Device.MAC.String(), "overlay-cni", false, true, true,
			}, attributes{
				got.VxlanId, got.Port, got.VtepDevIndex, got.MTU, got.SrcAddr.String(), got.HardwareAddr.String(), got.Alias,
				got.Learning, got.Flags&net.FlagUp != 0, got.Group == nil,
			})
			if diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			addrs, err := h.nl.AddrList(got, unix.AF_UNSPEC)
			h.must(err)
			for _, a := range addrs {
				if a.IP.IsLinkLocalUnicast() {
					t.Errorf("the device has the link-local address %s", a)
				}
				if a.Flags&unix.IFA_F_TENTATIVE != 0 {
					t.Errorf("address %s is still being probed", a)
				}
			}
			if len(addrs) != 2 {
				t.Errorf("addresses are %v, want one a family", addrs)
			}
		})
	}
}
