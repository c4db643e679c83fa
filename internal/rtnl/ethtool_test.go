package rtnl

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/tunnel"
)

func TestTxChecksum(t *testing.T) {
	p := newPlace(t)
	var b Batch
	b.AddVXLAN(VXLAN{Name: "vx0", MAC: mac, MTU: 1400, Tunnel: tunnel.Tunnel{
		VNI: 1, Port: 4789, Underlay: p.index, Local: netip.MustParseAddr("10.1.0.1"),
	}})
	p.must(p.conn.Run(&b))
	for _, on := range []bool{true, false, false, true} {
		p.must(p.conn.SetTxChecksum("vx0", on))
		got, err := p.conn.TxChecksum("vx0")
		p.must(err)
		if got != on {
			t.Errorf("it is %t and was set to %t", got, on)
		}
	}
	for _, name := range []string{"nowhere", "a-name-of-sixteen"} {
		if _, err := p.conn.TxChecksum(name); !errors.Is(err, unix.ENODEV) {
			t.Errorf("%s: error is %v", name, err)
		}
		if err := p.conn.SetTxChecksum(name, true); !errors.Is(err, unix.ENODEV) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestDriver(t *testing.T) {
	p := newPlace(t)
	p.must(p.handle.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth1"}))
	for name, want := range map[string]string{"br0": "bridge", "eth0": "veth"} {
		if got, err := p.conn.Driver(name); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	if _, err := p.conn.Driver("nowhere"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("error is %v", err)
	}
}
