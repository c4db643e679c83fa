package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
)

// second gives a host another interface, whose far end leads nowhere.
func (f *fleet) second(h *lab.Host, name string, prefixes ...string) {
	f.t.Helper()
	f.must(h.Handle().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1400}, PeerName: name + "-far"}))
	f.must(onLink(name, func(handle *netlink.Handle, l netlink.Link) error {
		errs := []error{handle.LinkSetUp(l)}
		for _, p := range prefixesOf(prefixes...) {
			errs = append(errs, handle.AddrAdd(l, &netlink.Addr{IPNet: ipNetOf(p), Flags: unix.IFA_F_NODAD}))
		}
		return errors.Join(errs...)
	})(h.Handle()))
}

// anySource lets hosts send from addresses that the registry lacks.
func anySource(c *lab.Config) { c.DaemonArgs = append(c.DaemonArgs, "--vxlan-check-source=false") }

// carries returns nil if the tunnel uses an address of the interface, and all
// MTUs follow from the interface's.
func (f *fleet) carries(h *lab.Host, want carrier) error {
	link, err := h.Handle().LinkByName(tunnel)
	if err != nil {
		return err
	}
	underlay, err := h.Handle().LinkByName(want.name)
	if err != nil {
		return err
	}
	v, ok := link.(*netlink.Vxlan)
	if !ok || v.VtepDevIndex != underlay.Attrs().Index || v.SrcAddr.String() != want.address {
		return fmt.Errorf("the tunnel is %+v, not over %+v", link, want)
	}
	if got := [3]int{v.MTU, mtuOf(f, h.Handle(), "cni0"), f.published(h).MTU}; got != [3]int{want.mtu, want.mtu, want.mtu} {
		return fmt.Errorf("tunnel, bridge and node.json have MTUs %v, not %d", got, want.mtu)
	}
	return nil
}

type carrier struct {
	name, address string
	mtu           int
}

func TestDaemonUnderlayChoice(t *testing.T) {
	t.Parallel()
	f := newIdleFleet(t, 1, modes[2].set, anySource)
	h := f.hosts[0]
	f.second(h, "eth1", "192.168.88.1/24", "fd88::1/64")
	eth0, eth1 := carrier{"eth0", "192.168.77.1", 1450}, carrier{"eth1", "192.168.88.1", 1350}
	six0, six1 := carrier{"eth0", "fd77::1", 1430}, carrier{"eth1", "fd88::1", 1330}
	for _, tt := range []struct {
		underlay, family string
		want             carrier
	}{
		{"auto", "auto", eth0}, {"auto", "ipv4", eth0}, {"auto", "ipv6", six0},
		{"eth1", "auto", eth1}, {"eth1", "ipv4", eth1}, {"eth1", "ipv6", six1},
		{"eth0", "auto", eth0}, {"eth0", "ipv6", six0},
		{"192.168.88.1", "auto", eth1}, {"fd88::1", "auto", six1}, {"fd88::1", "ipv6", six1},
		{"192.168.77.1", "auto", eth0}, {"fd77::1", "auto", six0},
		{"to:192.168.88.9", "auto", eth1}, {"to:fd88::9", "auto", six1},
		{"to:192.168.77.9", "auto", eth0}, {"to:fd77::9", "ipv6", six0},
		{"to:198.51.100.1", "auto", eth0}, {"to:2001:db8::9", "auto", six0},
	} {
		t.Run(tt.underlay+" "+tt.family, func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			f.start(ctx, h, "--underlay", tt.underlay, "--underlay-family", tt.family)
			f.must(f.carries(h, tt.want))
			f.stop(ctx, h)
		})
	}
	t.Run("auto, by the default route", func(t *testing.T) {
		f, ctx := f.sub(t), withPatience(t)
		nodes := entries(h)
		nodes[0].addresses = []netip.Addr{netip.MustParseAddr("198.51.100.7")}
		f.must(f.lab.WriteRegistry([]byte(translated(nodes))))
		f.start(ctx, h)
		f.must(f.carries(h, eth0))
		f.stop(ctx, h)
	})
	t.Run("auto, by the address in the registry", func(t *testing.T) {
		f, ctx := f.sub(t), withPatience(t)
		nodes := entries(h)
		nodes[0].addresses = []netip.Addr{netip.MustParseAddr("192.168.88.1")}
		f.register(nodes)
		f.start(ctx, h)
		f.must(f.carries(h, eth1))
		f.stop(ctx, h)
	})
}

func TestDaemonFollowsTheUnderlaysMTU(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, m mode) {
		f, ctx := newFleet(t, 1, m.set, noResync), withPatience(t)
		h := f.hosts[0]
		for _, underlay := range []int{1400, 9000, 1500} {
			f.must(onLink("eth0", func(handle *netlink.Handle, l netlink.Link) error { return handle.LinkSetMTU(l, underlay) })(h.Handle()))
			f.eventually(ctx, func(context.Context) error {
				return f.carries(h, carrier{"eth0", h.Addresses()[0].String(), underlay - m.overhead()})
			})
			pod := f.addPod(ctx, h, fmt.Sprint("mtu-", underlay))
			handle, err := pod.Netns().Handle()
			f.must(err)
			if got := mtuOf(f, handle, "eth0"); got != underlay-m.overhead() {
				t.Errorf("a pod over %d has MTU %d", underlay, got)
			}
			handle.Close()
		}
	})
}

// A daemon that can't find its underlay names it, says what to do, admits no pod,
// and waits: interfaces appear late in a boot.
func TestDaemonWrongUnderlay(t *testing.T) {
	t.Parallel()
	f := newIdleFleet(t, 1, noResync, anySource)
	h := f.hosts[0]
	f.second(h, "eth2", "192.168.89.1/24")
	f.must(onLink("eth2", (*netlink.Handle).LinkSetDown)(h.Handle()))
	for _, tt := range []struct {
		args []string
		log  string
	}{
		{[]string{"--underlay", "eth7"}, `there is no interface \"eth7\": set underlay to one that exists; this host has lo 127.0.0.1`},
		{[]string{"--underlay", "192.168.99.1"}, "no interface has the address 192.168.99.1: set underlay to an address of this host"},
		{[]string{"--underlay", "to:2001:db8::9"}, "no route leads to 2001:db8::9: add one, or set underlay to an interface"},
		{[]string{"--underlay", "lo"}, `interface \"lo\" is a loopback, which reaches no other host: set underlay to another interface`},
		{[]string{"--underlay", "eth2"}, `interface \"eth2\" is down: set it up with \"ip link set eth2 up\"`},
		{[]string{"--underlay", "eth2", "--underlay-family", "ipv6"}, `interface \"eth2\" is down: set it up`},
		{[]string{"--underlay", "eth0", "--underlay-family", "ipv6"},
			`interface \"eth0\" has no global IPv6 address: add one, or set underlay to another interface, or underlayFamily (ipv6) to the other family, on all hosts`},
		{[]string{"--underlay-family", "ipv6"},
			"there is no IPv6 default route, and no interface has an address by which the registry knows this host (192.168.77.1)"},
		{[]string{"--mtu", "1451"}, "mtu 1451 is too large for underlay eth0, whose MTU of 1500 leaves 1450 to the pods: set mtu to 0 or at most 1450"},
	} {
		t.Run(fmt.Sprint(tt.args), func(t *testing.T) {
			f, ctx := f.sub(t), withPatience(t)
			d := f.launch(h, tt.args...)
			f.must(d.Log.Wait(ctx, tt.log))
			f.notPublished(h)
			f.stop(ctx, h)
		})
	}
	t.Run("it goes on when the interface appears", func(t *testing.T) {
		f, ctx := f.sub(t), withPatience(t)
		d := f.launch(h, "--underlay", "eth7")
		f.must(d.Log.Wait(ctx, "eth7"))
		f.second(h, "eth7", "192.168.90.1/24")
		f.must(d.Log.Wait(ctx, "msg=reconciled round=network"))
		f.must(f.carries(h, carrier{"eth7", "192.168.90.1", 1350}))
	})
}
