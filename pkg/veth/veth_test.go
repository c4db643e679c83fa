package veth

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

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
		b, err := bridge.Open()
		if err != nil {
			return err
		}
		defer b.Close()
		return fn(On(b), h)
	})
}

// What Add makes is what Inspect looks for, and Inspect tells each damage.
func TestAddAndInspect(t *testing.T) {
	inNetns(t, func(k *Kernel, h *netlink.Handle) error {
		gateway := netip.MustParsePrefix("10.244.1.1/24")
		spec := bridge.Spec{Name: "cni0", MTU: 1450, Gateways: []netip.Prefix{gateway}}
		index, err := k.bridge.Add(spec)
		if err != nil {
			return err
		}
		ns := sandboxtest.NewNetns(t)
		pod, err := os.Open(ns.Path())
		if err != nil {
			return err
		}
		defer pod.Close()
		p := Port{
			HostName: "veth0", IfName: "eth0", MTU: 1450, MAC: []byte{2, 0, 0, 0, 0, 1}, HostMAC: []byte{2, 0, 0, 0, 0, 2},
			Addresses: []Address{{Addr: netip.MustParseAddr("10.244.1.2"), Gateway: gateway.Addr()}},
			Routes:    []Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: gateway.Addr()}},
		}
		if p.Routes, err = k.Add(pod, index, spec, p); err != nil {
			return err
		}
		inPod, err := ns.Handle()
		if err != nil {
			return err
		}
		defer inPod.Close()
		host, err := h.LinkByName("veth0")
		if err != nil {
			return err
		}
		eth0, err := inPod.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, tt := range []struct {
			damage func() error
			want   string
		}{
			{func() error { return nil }, "[]"},
			{func() error { return h.LinkSetNoMaster(host) }, "[the host's end veth0 is not a port of cni0]"},
			{func() error { return h.LinkSetDown(host) }, "[the host's end veth0 is not a port of cni0 the host's end veth0 is down]"},
			{func() error { _, _, err := k.Sync(spec, map[string]int{"veth0": 1500}, idle); return err }, "[]"},
			{func() error { return inPod.LinkSetMTU(eth0, 1400) }, "[eth0 has MTU 1400, not 1450]"},
			{func() error {
				addrs, err := inPod.AddrList(eth0, unix.AF_INET)
				return errors.Join(err, inPod.LinkSetMTU(eth0, 1450), inPod.AddrDel(eth0, &addrs[0]))
			}, "[eth0 lacks address 10.244.1.2 eth0 lacks the route to 0.0.0.0/0 via 10.244.1.1]"},
			{func() error { return inPod.LinkSetDown(eth0) },
				"[eth0 is down eth0 lacks address 10.244.1.2 eth0 lacks the route to 0.0.0.0/0 via 10.244.1.1]"},
			{func() error { return k.bridge.Remove("veth0", "none") }, "[the host's end veth0 is gone the pod has no interface eth0]"},
		} {
			if err := tt.damage(); err != nil {
				return err
			}
			got, err := k.Inspect(pod, "cni0", p)
			if err != nil || fmt.Sprint(got) != tt.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
			}
		}
		return nil
	})
}

// When Add returns, the port forwards and the bridge sends: the kernel leaves both
// to a worker, which comes late on a busy machine.
func TestPortForwardsAfterAdd(t *testing.T) {
	inNetns(t, func(k *Kernel, h *netlink.Handle) error {
		other := sandboxtest.NewNetns(t)
		pod, err := os.Open(other.Path())
		if err != nil {
			return err
		}
		defer pod.Close()
		for range 50 {
			gateway := netip.MustParsePrefix("10.244.1.1/24")
			spec := bridge.Spec{Name: "cni0", MTU: 1450, Gateways: []netip.Prefix{gateway}}
			index, err := k.bridge.Add(spec)
			if err != nil {
				return err
			}
			p := Port{
				HostName: "veth0", IfName: "eth0", MTU: 1450, MAC: []byte{2, 0, 0, 0, 0, 1}, HostMAC: []byte{2, 0, 0, 0, 0, 2},
				Addresses: []Address{{Addr: netip.MustParseAddr("10.244.1.2"), Gateway: gateway.Addr()}},
			}
			if _, err := k.Add(pod, index, spec, p); err != nil {
				return err
			}
			bridge, err := h.LinkByName("cni0")
			if err != nil {
				return err
			}
			// The bridge has a carrier while a port forwards.
			if state := bridge.Attrs().OperState; state != netlink.OperUp {
				return fmt.Errorf("cni0 is %s", state)
			}
			if err := k.bridge.Remove("veth0", "cni0"); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestFullBridge(t *testing.T) {
	inNetns(t, func(k *Kernel, _ *netlink.Handle) error {
		spec := bridge.Spec{Name: "cni0", MTU: 1500, Gateways: []netip.Prefix{netip.MustParsePrefix("10.244.0.1/16")}}
		index, err := k.bridge.Add(spec)
		if err != nil {
			return err
		}
		other := sandboxtest.NewNetns(t)
		var b rtnl.Batch
		for i := range maxPorts {
			b.AddVeth(rtnl.Veth{
				Name: fmt.Sprint("p", i), MAC: []byte{2, 0, 0, 0, byte(i >> 8), byte(i)}, Master: index, MTU: 1500,
				Peer: rtnl.VethPeer{Name: fmt.Sprint("q", i), MAC: []byte{2, 0, 0, 1, byte(i >> 8), byte(i)}, Netns: other.FD()},
			})
		}
		if err := k.conn.Run(&b); err != nil {
			return err
		}
		pod, err := os.Open(other.Path())
		if err != nil {
			return err
		}
		defer pod.Close()
		_, err = k.Add(pod, index, spec, Port{HostName: "late", IfName: "eth0", MTU: 1500, MAC: []byte{2, 0, 0, 2, 0, 0}, HostMAC: []byte{2, 0, 0, 2, 0, 1}})
		want := "bridge is full: cni0 has the 1023 ports that the kernel allows; no more pods fit on this node"
		if !errors.Is(err, ErrBridgeFull) || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if _, err := k.conn.Link("late"); !errors.Is(err, unix.ENODEV) {
			t.Errorf("the veth pair is left: %v", err)
		}
		return nil
	})
}
