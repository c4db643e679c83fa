package veth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
)

func TestPlanPort(t *testing.T) {
	isolated := portState{port: true, up: true, isolated: true, hooked: true}
	switched := portState{port: true, up: true, hairpin: true, hooked: true}
	with := func(s portState, change func(*portState)) portState {
		change(&s)
		return s
	}
	for name, tt := range map[string]struct {
		want, have portState
		verbs      []portVerb
	}{
		"all is right":                {isolated, isolated, nil},
		"all is right, with hairpin":  {switched, switched, nil},
		"not a port":                  {isolated, portState{up: true}, []portVerb{plug, setMode}},
		"not a port, nor up":          {switched, portState{}, []portVerb{plug, setMode, raise}},
		"down":                        {isolated, with(isolated, func(s *portState) { s.up = false }), []portVerb{raise}},
		"floods":                      {isolated, with(isolated, func(s *portState) { s.floods = true }), []portVerb{setMode}},
		"an altered property":         {isolated, with(isolated, func(s *portState) { s.altered = []rtnl.PortProperty{rtnl.PortLearning} }), []portVerb{restore}},
		"altered, and no port":        {isolated, with(portState{up: true}, func(s *portState) { s.altered = []rtnl.PortProperty{rtnl.PortLearning} }), []portVerb{plug, setMode}},
		"smaller MTU":                 {with(isolated, func(s *portState) { s.mtu = 1450 }), isolated, []portVerb{setMTU}},
		"larger MTU":                  {isolated, with(isolated, func(s *portState) { s.mtu = 1450 }), nil},
		"not hooked":                  {isolated, with(isolated, func(s *portState) { s.hooked = false }), []portVerb{setMode}},
		"not isolated":                {isolated, with(isolated, func(s *portState) { s.isolated = false }), []portVerb{setMode}},
		"br_netfilter was turned on":  {switched, isolated, []portVerb{setMode}},
		"br_netfilter was turned off": {isolated, switched, []portVerb{setMode}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := planPort(tt.want, tt.have); !slices.Equal(got, tt.verbs) {
				t.Errorf("got %v, want %v", got, tt.verbs)
			}
		})
	}
}

// setUp sets links of the calling thread's namespace up.
func setUp(names ...string) error {
	conn, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var b rtnl.Batch
	for _, name := range names {
		b.SetUpByName(name)
	}
	return conn.Run(&b)
}

func idle(string) bool { return false }

// alterations give each property of the port b another value.
func alterations(conn *rtnl.Conn) map[string]func() error {
	all := map[string]func() error{}
	for _, n := range newPort() {
		values := map[rtnl.PortProperty]uint8{n.PortProperty: 1 - min(n.value, 1)}
		switch n.PortProperty {
		case rtnl.PortState:
			continue // the kernel enables the port again after such a message; package test/hosts runs bridge(8)
		case rtnl.PortMAB:
			values[rtnl.PortLocked] = 1 // the kernel demands it
		}
		all[n.Name] = func() error {
			var b rtnl.Batch
			b.SetPortProperties("b", values)
			return conn.Run(&b)
		}
	}
	return all
}

// settle waits until the kernel has noticed the carrier of links that are up.
func settle(t *testing.T, h *netlink.Handle, names ...string) {
	t.Helper()
	for _, name := range names {
		err := probe.Eventually(t.Context(), func(context.Context) error {
			l, err := h.LinkByName(name)
			if err == nil && l.Attrs().RawFlags&unix.IFF_UP != 0 && l.Attrs().OperState != netlink.OperUp {
				err = errors.New("no carrier")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSync(t *testing.T) {
	inNetns(t, func(k *Kernel, h *netlink.Handle) error {
		spec := bridge.Spec{Name: "cni0", MTU: 1500, Gateways: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}}
		if changes, missing, err := k.Sync(spec, map[string]int{"a": 1500}, idle); len(changes)+len(missing) > 0 || err != nil {
			t.Errorf("without a bridge: %v, %v, %v", changes, missing, err)
		}
		index, err := k.bridge.Add(spec)
		if err != nil {
			return err
		}
		other := sandboxtest.NewNetns(t)
		var b rtnl.Batch
		names := []string{"a", "b", "unmanaged"}
		for i, name := range names {
			b.AddVeth(rtnl.Veth{
				Name: name, MAC: []byte{2, 0, 0, 0, 0, byte(i)}, Master: index, MTU: 1500,
				Peer: rtnl.VethPeer{Name: name, MAC: []byte{2, 0, 0, 1, 0, byte(i)}, Netns: other.FD()},
			})
			b.SetPort(rtnl.Port{Name: name, Alias: "pod " + name, Isolated: !callsIptables(spec), Hairpin: callsIptables(spec)})
			b.SetUpByName(name)
		}
		if err := k.conn.Run(&b); err != nil {
			return err
		}
		sandboxtest.Do(t, other, func() error { return setUp(names...) })
		link, err := h.LinkByName("b")
		if err != nil {
			return err
		}
		unmanaged, err := h.LinkByName("unmanaged")
		if err != nil {
			return err
		}
		damages := map[string]func() error{
			"nothing":     func() error { return nil },
			"unplugged":   func() error { return h.LinkSetNoMaster(link) },
			"set down":    func() error { return h.LinkSetDown(link) },
			"smaller MTU": func() error { return h.LinkSetMTU(link, 700) },
			"floods": func() error {
				return errors.Join(h.LinkSetNoMaster(link), h.LinkSetMasterByIndex(link, index))
			},
		}
		// The kernel disables and enables ports by itself, until the carrier is settled.
		settle(t, h, "a", "b")
		maps.Copy(damages, alterations(k.conn))
		for name, damage := range damages {
			if err := damage(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			left, _, err := k.Sync(spec, map[string]int{"a": 1500, "b": 1500}, func(name string) bool { return name == "b" })
			if len(left) > 0 || err != nil {
				t.Errorf("%s: changed %q of a busy port, %v", name, left, err)
			}
			changes, missing, err := k.Sync(spec, map[string]int{"a": 1500, "b": 1500, "gone": 1500}, idle)
			if err != nil || !slices.Equal(missing, []string{"gone"}) || (len(changes) == 0) != (name == "nothing") {
				t.Errorf("%s: changed %q, missing %q, %v", name, changes, missing, err)
			}
			settle(t, h, "a", "b")
			if again, _, err := k.Sync(spec, map[string]int{"a": 1500, "b": 1500, "gone": 1500}, idle); len(again) > 0 || err != nil {
				t.Errorf("%s: the second time it changed %q, %v", name, again, err)
			}
		}
		if now, err := h.LinkByName("b"); err != nil || now.Attrs().Alias != "pod b" {
			t.Errorf("the alias is %q, %v", now.Attrs().Alias, err)
		}
		if now, err := h.LinkByName("unmanaged"); err != nil || now.Attrs().MasterIndex != unmanaged.Attrs().MasterIndex {
			t.Errorf("the port that is none of ours has another master: %v", err)
		}
		return nil
	})
}
