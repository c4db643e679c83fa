package vxlan

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/tunnel"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// text prints operations one a line.
func text(ops []Op) string {
	var lines []string
	for _, op := range ops {
		lines = append(lines, op.String())
	}
	return strings.Join(lines, "\n")
}

func desired(t testing.TB, f familyCase, numbers ...int) State {
	t.Helper()
	s, err := Desired(input(f, numbers...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func input(f familyCase, numbers ...int) Input {
	in := Input{Config: testConfig(), Own: f.node(1), Nodes: f.nodes(numbers...)}
	in.Underlay.Name, in.Underlay.Index, in.Underlay.MTU, in.Underlay.Address = "eth0", 2, 1500, netip.MustParseAddr(f.underlay)
	return in
}

// apply does what the kernel does with operations.
func apply(have State, ops []Op) State {
	s := State{
		Device: have.Device, Addresses: maps.Clone(have.Addresses), Routes: maps.Clone(have.Routes),
		Neighbors: maps.Clone(have.Neighbors), FDB: maps.Clone(have.FDB),
		Unmanaged: slices.Clone(have.Unmanaged), Renamed: slices.Clone(have.Renamed),
	}
	for _, op := range ops {
		if op.Verb <= SetUp {
			s.applyDevice(op)
		} else {
			s.applyEntry(op)
		}
	}
	return s
}

func (s *State) applyDevice(op Op) {
	switch d := &s.Device; op.Verb {
	case DeleteDevice:
		if op.Text != d.Name {
			s.Renamed = slices.DeleteFunc(s.Renamed, func(n string) bool { return n == op.Text })
			return
		}
		strays, routes := s.Renamed, s.Routes
		*s = newState(0)
		s.Renamed, s.Routes = strays, routes
		maps.DeleteFunc(s.Routes, func(_ netip.Prefix, r Route) bool { return r.Over == 0 })
	case CreateDevice:
		*d = justCreated(*op.Device)
	case SetAlias:
		d.Alias = op.Device.Alias
	case SetTunnel:
		d.Tunnel = op.Device.Tunnel
	case SetMTU:
		d.MTU = op.Device.MTU
	case SetMAC:
		d.MAC = op.Device.MAC
	case SetNoAutoAddress:
		d.AutoAddress = false
	case SetTxChecksum:
		d.TxChecksum = op.Device.TxChecksum
	case SetNoMaster:
		d.Master = 0
	case SetResolvesNeighbors:
		d.NoNeighbors = false
	case SetNoProtoDown:
		d.ProtoDown = false
	case SetUp:
		d.Up = true
	}
}

func (s *State) applyEntry(op Op) {
	switch op.Verb {
	case AddAddress:
		for p := range s.Addresses {
			if p.Addr() == op.Subnet.Addr() {
				return // EEXIST, as for IPv6
			}
		}
		s.Addresses[op.Subnet] = Address{}
	case DeleteAddress:
		delete(s.Addresses, op.Subnet)
	case DeleteUnmanaged:
		s.Unmanaged = slices.DeleteFunc(s.Unmanaged, func(o Unexpected) bool { return o == *op.Unexpected })
	case SetFDB:
		s.FDB[op.MAC] = FDBEntry{Host: op.IP}
	case SetNeighbor:
		s.Neighbors[op.IP] = Neighbor{MAC: op.MAC}
	case SetRoute:
		s.Routes[op.Subnet] = Route{Via: op.IP, Over: op.Over}
	case AddHostRoute:
		s.Routes[subnet.Host(op.IP)] = Route{}
	case DeleteHostRoute:
		delete(s.Routes, subnet.Host(op.IP))
	case DeleteFDB:
		delete(s.FDB, op.MAC)
	case DeleteNeighbor:
		delete(s.Neighbors, op.IP)
	case DeleteRoute:
		delete(s.Routes, op.Subnet)
	}
}

// randomDesired is some cluster's state, out of few values, so that two of
// them have much in common.
func randomDesired(r *rand.Rand) State {
	f := families()[r.IntN(4)]
	in := input(f)
	in.Own = f.node(1 + r.IntN(2))
	for i := range 8 {
		peer := f.node(i)
		if r.IntN(2) == 0 {
			peer.Addresses = f.node(10 + r.IntN(3)).Addresses
		}
		if r.IntN(2) == 0 {
			in.Nodes = append(in.Nodes, peer)
		}
	}
	in.Config.VNI += uint32(r.IntN(2))
	in.Config.DirectRouting = r.IntN(2) == 0
	in.Config.TTL = tunnel.TTL(r.IntN(3) - 1)
	in.Config.TOS = tunnel.TOS(r.IntN(2))
	in.Config.ZeroChecksum = r.IntN(4) == 0
	in.Config.TxChecksum = tunnel.Offload(r.IntN(3))
	in.Underlay.Index += r.IntN(2)
	in.Underlay.OnLink = []netip.Prefix{netip.MustParsePrefix("192.168.77.0/29"), netip.MustParsePrefix("fd77::/125")}
	in.Config.MTU = 1300 + r.IntN(3)
	s, _ := Desired(in) // impossible peers are left out
	return s
}

// randomActual is a desired state that something went wrong with.
func randomActual(r *rand.Rand) State {
	s := randomDesired(r)
	odd := &Unexpected{Text: "odd", Kind: rtnl.DumpedRoute, Raw: fmt.Sprint(r.IntN(3))}
	chance := func(f func()) {
		if r.IntN(4) == 0 {
			f()
		}
	}
	chance(func() { s.Renamed = []string{"a", "b"} })
	chance(func() { s.Device.Up = false })
	chance(func() { s.Device.Alias = "" })
	chance(func() { s.Device.MAC = MAC{1} })
	chance(func() { s.Device.Tunnel.Learning = true })
	chance(func() { s.Device.Tunnel.More = " gbp" })
	chance(func() { s.Device.AutoAddress = true })
	chance(func() { s.Device.Master = 7 })
	chance(func() { s.Device.NoNeighbors = true })
	chance(func() { s.Device.ProtoDown = true })
	chance(func() { s.Device.TxChecksum = !s.Device.TxChecksum })
	chance(func() { s.Device.Tunnel.SourcePorts.High = 9 })
	chance(func() { s.Unmanaged = append(s.Unmanaged, *odd) })
	for p := range s.Addresses {
		chance(func() { s.Addresses[p] = Address{Unexpected: odd} })
		chance(func() { delete(s.Addresses, p); s.Addresses[netip.PrefixFrom(p.Addr(), 20)] = Address{} })
	}
	for p, route := range s.Routes {
		chance(func() { s.Routes[p] = Route{Via: route.Via, Over: route.Over, Unexpected: odd} })
		chance(func() { delete(s.Routes, p) })
	}
	for ip := range s.Neighbors {
		chance(func() { s.Neighbors[ip] = Neighbor{MAC: MAC{2}} })
		chance(func() { delete(s.Neighbors, ip) })
	}
	for mac := range s.FDB {
		chance(func() { s.FDB[mac] = FDBEntry{Unexpected: odd} })
		chance(func() { delete(s.FDB, mac) })
	}
	chance(func() { s = newState(0) })
	return s
}

func TestPlanConverges(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 0))
		want, have := randomDesired(r), randomActual(r)
		ops := Plan(want, have)
		after := apply(have, ops)
		if diff := diffStates(want, after); diff != "" {
			t.Fatalf("seed %d: after\n%s\nthe state is not the desired one (-want +have):\n%s", seed, text(ops), diff)
		}
		if again := Plan(want, after); len(again) > 0 {
			t.Fatalf("seed %d: a second plan is not empty:\n%s", seed, text(again))
		}
	}
}

func TestPlanIsDeterministic(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		want, have := randomDesired(r), randomActual(r)
		if first, second := text(Plan(want, have)), text(Plan(want, have)); first != second {
			t.Fatalf("seed %d: two plans differ:\n%s", seed, cmp.Diff(first, second))
		}
	}
}

func TestPlanTakesTheLeastChange(t *testing.T) {
	f := families()[0]
	tests := []struct {
		name  string
		alter func(want *State)
		plan  string
	}{
		{"nothing", func(*State) {}, ""},
		{"another address", func(w *State) { w.Addresses = map[netip.Prefix]Address{netip.MustParsePrefix("10.9.9.9/32"): {}} },
			"add address 10.9.9.9/32\ndelete address 10.244.1.0/32"},
		{"another length of the address", func(w *State) { w.Addresses = map[netip.Prefix]Address{netip.MustParsePrefix("10.244.1.0/31"): {}} },
			"delete address 10.244.1.0/32\nadd address 10.244.1.0/31"},
		{"another MTU", func(w *State) { w.Device.MTU = 1400 }, "set MTU 1400 of overlay0"},
		{"another local address", func(w *State) { w.Device.Tunnel.Local = netip.MustParseAddr("192.168.77.9") },
			"set tunnel of overlay0: from 192.168.77.9 on interface 2, TTL auto, TOS 0, DF unset"},
		{"another underlay", func(w *State) { w.Device.Tunnel.Underlay = 7 },
			"set tunnel of overlay0: from 192.168.77.1 on interface 7, TTL auto, TOS 0, DF unset"},
		{"a peer moves", func(w *State) {
			mac := vtepMAC(f.node(2))
			w.FDB[mac] = FDBEntry{Host: netip.MustParseAddr("192.168.77.9")}
		}, "set FDB entry c6:d5:e5:2c:ee:a0 to 192.168.77.9 (was 192.168.77.2)"},
		{"a peer leaves", func(w *State) { *w = desired(t, f, 3) },
			"delete route 10.244.2.0/24 via 10.244.2.0\n" +
				"delete neighbour 10.244.2.0 to c6:d5:e5:2c:ee:a0\n" +
				"delete FDB entry c6:d5:e5:2c:ee:a0 to 192.168.77.2"},
		{"a peer joins", func(w *State) { *w = desired(t, f, 2, 3, 4) },
			"set FDB entry 8e:0d:07:9a:cb:93 to 192.168.77.4\n" +
				"set neighbour 10.244.4.0 to 8e:0d:07:9a:cb:93\n" +
				"set route 10.244.4.0/24 via 10.244.4.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := desired(t, f, 2, 3)
			tt.alter(&want)
			mac := vtepMAC(f.node(2)).String()
			plan := strings.ReplaceAll(tt.plan, "c6:d5:e5:2c:ee:a0", mac)
			plan = strings.ReplaceAll(plan, "8e:0d:07:9a:cb:93", vtepMAC(f.node(4)).String())
			if diff := cmp.Diff(plan, text(Plan(want, desired(t, f, 2, 3)))); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// A device that is made anew is empty: everything on it is planned again.
func TestPlanProgramsPeersOfANewDevice(t *testing.T) {
	for _, f := range families() {
		want, have := desired(t, f, 2, 3), desired(t, f, 2, 3)
		have.Device.Tunnel.VNI = 42
		ops := Plan(want, have)
		counts := map[Verb]int{}
		for _, op := range ops {
			counts[op.Verb]++
		}
		if counts[CreateDevice] != 1 || counts[SetRoute] != len(want.Routes) ||
			counts[SetNeighbor] != len(want.Neighbors) || counts[SetFDB] != len(want.FDB) {
			t.Errorf("%s: the plan does not make everything:\n%s", f.name, text(ops))
		}
	}
}

func TestChangesAreCountedWhenMany(t *testing.T) {
	have := newState(0)
	have.Device = desired(t, families()[0]).Device
	many := strings.Join(Changes(Plan(desired(t, families()[0], 2, 3, 4, 5), have)).describe(), ", ")
	if want := "add address: 1, set FDB entry: 4, set neighbour: 4, set route: 4"; many != want {
		t.Errorf("got %q, want %q", many, want)
	}
}
