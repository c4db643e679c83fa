package vxlan

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// watch starts to collect the kernel's messages. The function that it returns
// returns those that came until its call.
func (h *host) watch() func() [][]byte {
	h.t.Helper()
	var fd int
	h.in(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	})
	h.t.Cleanup(func() { unix.Close(fd) })
	var groups uint32
	for _, g := range []int{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE} {
		groups |= 1 << (g - 1)
	}
	h.must(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}))
	h.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, new(unix.NsecToTimeval(patience.Nanoseconds()))))
	return func() [][]byte {
		h.t.Helper()
		h.must(h.nl.LinkSetAlias(h.link("far"), "that is all"))
		var messages [][]byte
		for {
			buf := make([]byte, 1<<16)
			n, _, err := unix.Recvfrom(fd, buf, 0)
			h.must(err)
			if bytes.Contains(buf[:n], []byte("that is all")) {
				return messages
			}
			messages = append(messages, buf[:n])
		}
	}
}

// concerns says whether a message is about a peer's entries.
func concerns(message []byte, peer registry.Node) bool {
	mac := vtepMAC(peer)
	if bytes.Contains(message, mac[:]) {
		return true
	}
	for _, p := range peer.Subnets {
		if bytes.Contains(message, via(p).AsSlice()) {
			return true
		}
	}
	return false
}

// Peers 2 to 6 are there; each test changes some of 2 to 4 and adds 7.
func TestSyncFollowsPeers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		peers func(f familyCase) []registry.Node
	}{
		{"one joins", func(f familyCase) []registry.Node { return f.nodes(2, 3, 4, 5, 6, 7) }},
		{"one leaves", func(f familyCase) []registry.Node { return f.nodes(3, 4, 5, 6) }},
		{"one leaves and one joins", func(f familyCase) []registry.Node { return f.nodes(3, 4, 5, 6, 7) }},
		{"one changes its address", func(f familyCase) []registry.Node {
			ns := f.nodes(2, 3, 4, 5, 6)
			ns[0].Addresses = f.node(20).Addresses
			return ns
		}},
		{"two swap their subnets", func(f familyCase) []registry.Node {
			ns := f.nodes(2, 3, 4, 5, 6)
			ns[0].Subnets, ns[1].Subnets = ns[1].Subnets, ns[0].Subnets
			return ns
		}},
		{"one changes its subnet", func(f familyCase) []registry.Node {
			ns := f.nodes(2, 3, 4, 5, 6)
			ns[0].Subnets = f.node(7).Subnets
			return ns
		}},
		{"one gets a second subnet", func(f familyCase) []registry.Node {
			ns := f.nodes(2, 3, 4, 5, 6)
			ns[0].Subnets = append(ns[0].Subnets, f.node(7).Subnets...)
			return ns
		}},
		{"one gets a first subnet, by which its MAC address changes", func(f familyCase) []registry.Node {
			ns := f.nodes(2, 3, 4, 5, 6)
			ns[0].Subnets = append(f.node(0).Subnets, ns[0].Subnets...)
			return ns
		}},
		{"one takes another's subnet and address", func(f familyCase) []registry.Node {
			ns := f.nodes(3, 4, 5, 6)
			ns[0].Subnets, ns[0].Addresses = f.node(2).Subnets, f.node(2).Addresses
			return ns
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachFamily(t, func(t *testing.T, h *host, f familyCase) {
				h.sync(h.want(f.underlay, f.node(1), f.nodes(2, 3, 4, 5, 6)...))
				messages := h.watch()
				want := h.want(f.underlay, f.node(1), tt.peers(f)...)
				if changes := h.sync(want); len(changes) == 0 {
					t.Fatal("nothing changed")
				}
				seen := messages()
				h.check(want)
				if len(seen) == 0 {
					t.Error("the kernel told of no change: the test sees nothing")
				}
				for _, m := range seen {
					if concerns(m, f.node(5)) || concerns(m, f.node(6)) {
						t.Errorf("an entry of a peer that is not concerned was touched: %x", m)
					}
				}
			})
		})
	}
}

// An idle sync causes no notification about our entries.
func TestIdleSyncIsSilent(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		want := h.want(f.underlay, f.node(1), f.nodes(2, 3)...)
		h.sync(want)
		messages := h.watch()
		h.sync(want)
		for _, m := range messages() {
			if concerns(m, f.node(2)) || concerns(m, f.node(3)) {
				t.Errorf("an entry was touched: %x", m)
			}
		}
	})
}

func TestSyncFollowsOwnSettings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		alter func(h *host, f familyCase, in *Input)
	}{
		{"VNI", func(_ *host, _ familyCase, in *Input) { in.Config.VNI = 7 }},
		{"port", func(_ *host, _ familyCase, in *Input) { in.Config.Port = 8472 }},
		{"MTU", func(_ *host, _ familyCase, in *Input) { in.Config.MTU = 1300 }},
		{"name", func(_ *host, _ familyCase, in *Input) { in.Config.Device = "overlay9" }},
		{"subnet", func(_ *host, f familyCase, in *Input) { in.Own.Subnets = f.node(9).Subnets }},
		{"underlay", func(h *host, f familyCase, in *Input) { in.Underlay.Index = h.index("far") }},
		{"address", func(h *host, f familyCase, in *Input) {
			in.Underlay.Address = scene{h, f, h.want(f.underlay, f.node(1))}.otherHost()
		}},
		{"family of the underlay", func(h *host, f familyCase, in *Input) {
			other := map[bool]string{true: "fd77::1", false: "192.168.77.1"}[in.Underlay.Address.Is4()]
			in.Underlay.Address = netip.MustParseAddr(other)
			for i := range in.Nodes {
				n := i + 2
				in.Nodes[i].Addresses = node("", fmt.Sprintf("192.168.77.%d fd77::%d", n, n), "").Addresses
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			eachFamily(t, func(t *testing.T, h *host, f familyCase) {
				in := Input{Config: testConfig(), Underlay: h.underlayOf(f.underlay), Own: f.node(1), Nodes: f.nodes(2, 3)}
				want, err := Desired(in)
				h.must(err)
				h.sync(want)
				tt.alter(h, f, &in)
				want, err = Desired(in)
				h.must(err)
				if len(h.sync(want)) == 0 {
					t.Error("nothing changed")
				}
				h.check(want)
			})
		})
	}
}

// The kernel refuses a route whose next hop is one of the host's own addresses.
func TestOneBadPeerDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		bad := f.node(3).Subnets[0]
		h.addAddr("eth0", netip.PrefixFrom(via(bad), via(bad).BitLen()).String())
		want := h.want(f.underlay, f.node(1), f.nodes(2, 3, 4)...)
		_, err := h.k.sync(want)
		if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "set route "+bad.String()) {
			t.Errorf("error is %v", err)
		}
		have, err := h.k.read(want.Device)
		h.must(err)
		delete(want.Routes, bad)
		if diff := diffStates(want, have); diff != "" {
			t.Errorf("the rest is not as it should be (-want +have):\n%s", diff)
		}
	})
}

// Links come and go all the time while the kernel lists them in several messages.
func TestReadSurvivesInterruptedDumps(t *testing.T) {
	t.Parallel()
	h := newHost(t).withUnderlay("192.168.77.1/24")
	f := families()[0]
	want := h.want(f.underlay, f.node(1), f.nodes(2, 3)...)
	h.sync(want)
	for i := range 100 {
		h.must(h.nl.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("vx%d", i)}, VxlanId: 100 + i, Port: 4789, UDPCSum: true}))
	}
	stop, done := make(chan struct{}), make(chan error)
	go func() { done <- h.churn(stop) }()
	for range 200 {
		have, err := h.k.read(want.Device)
		if err != nil {
			t.Error(err)
			break
		}
		if len(have.Routes) != 2 || have.Device.Index == 0 {
			t.Errorf("read %+v", have)
			break
		}
	}
	close(stop)
	h.must(<-done)
}

// churn makes and deletes a link until it is stopped.
func (h *host) churn(stop <-chan struct{}) error {
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "churn"}}
	for {
		select {
		case <-stop:
			return nil
		default:
			if err := errors.Join(h.nl.LinkAdd(link), h.nl.LinkDel(link)); err != nil {
				<-stop
				return err
			}
		}
	}
}

// Deleting what is absent, and adding what is there, succeeds; but a route that
// appeared since the kernel was read is another device's.
func TestOperationsAreIdempotent(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, h *host, f familyCase) {
		want := h.want(f.underlay, f.node(1), f.nodes(2)...)
		empty := newState(0)
		empty.Device = want.Device
		h.sync(want)
		index := h.index("overlay0")
		add := append(planAddresses(want, empty), planEntries(want, empty)...)
		add = slices.DeleteFunc(add, func(o Op) bool { return o.Verb == SetRoute })
		remove := append(planEntries(empty, want), planAddresses(empty, want)...)
		remove = append(remove, Op{Verb: DeleteDevice, Text: "nothing"})
		for _, ops := range [][]Op{add, remove, remove} {
			if _, err := h.k.apply(slices.Clone(ops), index); err != nil {
				t.Error(err)
			}
		}
	})
}
