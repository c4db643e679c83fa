package bridge

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// Bridge is the bridge's state: the desired or the actual one.
type Bridge struct {
	Name string
	MTU  int // bytes
	MAC  net.HardwareAddr
	Up   bool
	// Resolves says that the bridge resolves neighbours (rtnl.Link).
	Resolves bool
	// Master is the index of the device that the bridge is part of, such as a VRF, 0
	// for none.
	Master int
	// Altered are the options that differ from those of options, with the values there.
	Altered []setting
	// Forwards says for each address family in use whether the kernel forwards.
	Forwards map[family.Family]bool
	Sysctls  []sysctl.Parameter
	// Addresses are the pods' gateways, each with the length of its subnet.
	Addresses []netip.Prefix
}

// Spec describes a bridge. Want derives the bridge's desired state from it.
type Spec struct {
	Name     string
	MTU      int
	Gateways []netip.Prefix // the gateway's address with its subnet's length
}

// linkLocal is an address that the bridge gets along with its IPv6 gateways.
// When the kernel forwards, it asks for pods' MAC addresses from a link-local
// address. The link-local address that the kernel makes itself is unusable for
// the first two seconds (duplicate address detection), and packets would be lost
// meanwhile.
var linkLocal = netip.MustParsePrefix("fe80::1/64")

// Want returns the desired state.
func (s Spec) Want() Bridge {
	b := Bridge{Name: s.Name, MTU: s.MTU, Up: true, Resolves: true, Forwards: map[family.Family]bool{}, Sysctls: s.sysctls()}
	for _, g := range s.Gateways {
		b.Forwards[family.Of(g.Addr())] = true
	}
	if b.Forwards[family.IPv6] {
		b.Addresses = append(b.Addresses, linkLocal)
	}
	// The gateways come last, so a bridge that has them has everything else.
	// veth.Kernel.Add adds them too, and learns from the kernel's answer whether
	// they were missing.
	b.Addresses = append(b.Addresses, s.Gateways...)
	if len(s.Gateways) > 0 {
		b.MAC = subnet.MAC("bridge " + subnet.Sort(s.Gateways)[0].Addr().String())
	}
	return b
}

// verb is one kind of change of the bridge.
type verb string

const (
	create     verb = "create"
	setMAC     verb = "set MAC of"
	setMTU     verb = "set MTU of"
	setSysctl  verb = "set a sysctl of"
	setUp      verb = "set up"
	setResolve verb = "turn ARP and multicast on for"
	setOption  verb = "set an option of"
	release    verb = "take off its master:"
	setForward verb = "turn forwarding on"
	addAddress verb = "add address to"
	delAddress verb = "delete address of"
)

// op is one change.
type op struct {
	verb    verb
	bridge  string
	family  family.Family // of setForward
	address netip.Prefix  // of addAddress and delAddress
	param   sysctl.Parameter
	option  setting
	mac     net.HardwareAddr
	mtu     int
}

func (o op) String() string {
	switch o.verb {
	case addAddress, delAddress:
		return fmt.Sprintf("%s %s: %s", o.verb, o.bridge, o.address)
	case setForward:
		return fmt.Sprintf("%s for %s: net.%s.conf.all.forwarding", o.verb, o.bridge, o.family.Proc())
	case setSysctl:
		return fmt.Sprintf("%s %s: %s", o.verb, o.bridge, o.param)
	case setOption:
		return fmt.Sprintf("%s %s: %s %d", o.verb, o.bridge, o.option.Name, o.option.value)
	case setMAC:
		return fmt.Sprintf("%s %s: %s", o.verb, o.bridge, o.mac)
	case setMTU:
		return fmt.Sprintf("%s %s: %d", o.verb, o.bridge, o.mtu)
	default:
		return fmt.Sprintf("%s %s", o.verb, o.bridge)
	}
}

// setting is an option with its value.
type setting struct {
	rtnl.BridgeOption
	value uint32
}

// options returns those of a bridge that matter to pods, with their values. A spanning
// tree keeps new ports closed for 30 seconds. Without ageing, the bridge learns no MAC
// address, and sends what is for one pod to all. VLANs drop or separate pods' frames.
// With snooping, the kernel sets timers of all ports for each new port. The settings
// for netfilter are the host's own (see package veth). The kernel's limit of FDB
// entries is none. It is a function because an ADD doesn't need the list, and would pay
// for making it.
func options() []setting {
	const fiveMinutes = 30000
	return []setting{
		{rtnl.BridgeSTP, 0}, {rtnl.BridgeAgeing, fiveMinutes}, {rtnl.BridgeVLANFiltering, 0}, {rtnl.BridgeMcastSnooping, 0},
		{rtnl.BridgeNFCallIPTables, 0}, {rtnl.BridgeNFCallIP6Tables, 0}, {rtnl.BridgeNFCallARPTables, 0}, {rtnl.BridgeFDBMaxLearned, 0},
	}
}

// altered lists the options that differ, and that the kernel has, with the values that
// they should have.
func altered(link rtnl.BridgeLink) []setting {
	var all []setting
	for _, o := range options() {
		if v, ok := link.Option(o.BridgeOption); ok && v != o.value {
			all = append(all, o)
		}
	}
	return all
}

// initialMTU is the MTU of a new bridge. The MTU has to be set afterwards: only then
// does the bridge keep it (br_change_mtu in net/bridge/br_device.c). Otherwise the
// bridge has the smallest MTU of its ports, and 1500 without ports.
const initialMTU = 1500

// unfinished tells whether a bridge is as the kernel made it: the process that made
// the bridge was killed, or is about to set its MTU.
func (b Bridge) unfinished() bool { return !b.Up && b.MTU == initialMTU }

// plan lists the changes that turn have into want; have is nil if there is no such
// bridge. The process may be killed between any two changes. So the changes that
// every ADD looks at come last: the bridge is set up, and gets its gateways'
// addresses. As long as one of these is missing, the next ADD completes the bridge.
func plan(want Bridge, have *Bridge) []op {
	var ops []op
	if have == nil {
		ops = append(ops, op{verb: create, bridge: want.Name, mac: want.MAC})
		have = &Bridge{MAC: want.MAC, MTU: initialMTU, Resolves: true}
		for _, p := range want.Sysctls {
			have.Sysctls = append(have.Sysctls, sysctl.Parameter{Path: p.Path}) // value unknown: the host's default for new interfaces
		}
	}
	// In a VRF, the bridge's routes are in a table of their own.
	if have.Master != 0 {
		ops = append(ops, op{verb: release, bridge: want.Name})
	}
	if want.MAC.String() != have.MAC.String() {
		ops = append(ops, op{verb: setMAC, bridge: want.Name, mac: want.MAC})
	}
	if want.MTU != have.MTU {
		ops = append(ops, op{verb: setMTU, bridge: want.Name, mtu: want.MTU})
	}
	if want.Resolves && !have.Resolves {
		ops = append(ops, op{verb: setResolve, bridge: want.Name})
	}
	for _, o := range have.Altered {
		ops = append(ops, op{verb: setOption, bridge: want.Name, option: o})
	}
	// Sysctls come before the bridge can receive a router advertisement.
	ops = append(ops, planSysctls(want, *have)...)
	for _, f := range family.All() {
		if want.Forwards[f] && !have.Forwards[f] {
			ops = append(ops, op{verb: setForward, bridge: want.Name, family: f})
		}
	}
	if !have.Up {
		ops = append(ops, op{verb: setUp, bridge: want.Name})
	}
	return append(ops, planAddresses(want, *have)...)
}

// planAddresses adds before it deletes. But an interface has an IPv6 address only
// once: the same address with another prefix length is deleted first.
func planAddresses(want, have Bridge) []op {
	var before, add, after []op
	missing := without(want.Addresses, have.Addresses)
	for _, a := range missing {
		add = append(add, op{verb: addAddress, bridge: want.Name, address: a})
	}
	for _, a := range without(have.Addresses, want.Addresses) {
		o := op{verb: delAddress, bridge: want.Name, address: a}
		again := slices.ContainsFunc(missing, func(m netip.Prefix) bool { return m.Addr() == a.Addr() })
		if again && a.Addr().Is6() {
			before = append(before, o)
		} else {
			after = append(after, o)
		}
	}
	return slices.Concat(before, add, after)
}

// without returns the elements of a that aren't in b, in a's order.
func without(a, b []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(a), func(p netip.Prefix) bool { return slices.Contains(b, p) })
}

// SubnetOf returns the subnet of a gateway, or the gateway alone if the bridge
// has no such gateway.
func (s Spec) SubnetOf(gateway netip.Addr) netip.Prefix {
	for _, g := range s.Gateways {
		if g.Addr() == gateway {
			return g.Masked()
		}
	}
	return netip.PrefixFrom(gateway, gateway.BitLen())
}
