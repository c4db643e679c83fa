package vxlan

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// Verb is what an operation does.
type Verb uint8

// The operations. Those up to SetUp concern the device itself.
const (
	DeleteDevice Verb = iota
	CreateDevice
	SetAlias
	SetTunnel
	SetMTU
	SetMAC
	SetNoAutoAddress
	SetTxChecksum
	SetUp
	AddAddress
	DeleteAddress
	DeleteForeign
	SetForward
	SetNeighbor
	ShowWay
	SetRoute
	HideWay
	DeleteRoute
	DeleteNeighbor
	DeleteForward
)

// verbs are for the log, where a large sync is told by numbers.
var verbs = [...]string{
	DeleteDevice:     "delete device",
	CreateDevice:     "create device",
	SetAlias:         "set alias",
	SetTunnel:        "set tunnel",
	SetMTU:           "set MTU",
	SetMAC:           "set MAC address",
	SetNoAutoAddress: "turn automatic IPv6 address off",
	SetTxChecksum:    "set transmit checksum offload",
	SetUp:            "set device up",
	AddAddress:       "add address",
	DeleteAddress:    "delete address",
	DeleteForeign:    "delete foreign entry",
	SetForward:       "set forwarding entry",
	SetNeighbor:      "set neighbour",
	ShowWay:          "show the way to a next hop",
	SetRoute:         "set route",
	HideWay:          "forget the way to a next hop",
	DeleteRoute:      "delete route",
	DeleteNeighbor:   "delete neighbour",
	DeleteForward:    "delete forwarding entry",
}

func (v Verb) String() string { return verbs[v] }

// Op is one change, and as a rule one netlink message. Which fields are set depends on
// the verb.
type Op struct {
	Verb   Verb
	MAC    MAC
	IP     netip.Addr
	Subnet netip.Prefix
	// Over is as in Route.
	Over int
	// Text is a name, or what the change replaces.
	Text   string
	Device *Device
	// Odd is what a deletion is about where it is no entry of our making.
	Odd *Odd
}

func (o Op) String() string {
	if o.Odd != nil {
		return "delete " + o.Odd.Text
	}
	switch o.Verb {
	case DeleteDevice:
		return o.Verb.String() + " " + o.Text
	case AddAddress, DeleteAddress:
		return o.Verb.String() + " " + o.Subnet.String()
	case SetForward, DeleteForward:
		return o.replacing(fmt.Sprintf("%s %s to %s", o.Verb, o.MAC, o.IP))
	case SetNeighbor, DeleteNeighbor:
		return o.replacing(fmt.Sprintf("%s %s to %s", o.Verb, o.IP, o.MAC))
	case SetRoute, DeleteRoute:
		return o.replacing(fmt.Sprintf("%s %s %s", o.Verb, o.Subnet, describeWay(o.IP, o.Over)))
	case ShowWay, HideWay:
		return o.Verb.String() + " " + o.IP.String()
	}
	return o.Verb.String() + " " + o.Device.describe(o.Verb)
}

func (o Op) replacing(s string) string {
	if o.Text == "" {
		return s
	}
	return s + " (was " + o.Text + ")"
}

// describe is the part of the device that a change is about.
func (d *Device) describe(v Verb) string {
	switch v {
	case SetAlias:
		return fmt.Sprintf("%q of %s", d.Alias, d.Name)
	case SetMTU:
		return fmt.Sprintf("%d of %s", d.MTU, d.Name)
	case SetMAC:
		return fmt.Sprintf("%s of %s", d.MAC, d.Name)
	case CreateDevice:
		return fmt.Sprintf("%s: VNI %d, port %d, from %s, MTU %d", d.Name, d.Tunnel.VNI, d.Tunnel.Port, d.Tunnel.Local, d.MTU)
	case SetNoAutoAddress:
		return "on " + d.Name
	case SetTunnel:
		return fmt.Sprintf("of %s: from %s on interface %d, TTL %s, DF %s", d.Name, d.Tunnel.Local, d.Tunnel.Underlay, d.Tunnel.TTL, d.Tunnel.DF)
	case SetTxChecksum:
		return fmt.Sprintf("of %s: %t", d.Name, d.TxChecksum)
	}
	return d.Name
}

// Changes are the operations that a sync carried out.
type Changes []Op

// changesShown is how many changes are told one by one; more make a log line
// that nobody reads.
const changesShown = 8

// String names each change, or counts them if they are many.
func (c Changes) String() string {
	var parts []string
	if len(c) <= changesShown {
		for _, op := range c {
			parts = append(parts, op.String())
		}
		return strings.Join(parts, ", ")
	}
	var counts [len(verbs)]int
	for _, op := range c {
		counts[op.Verb]++
	}
	for v, n := range counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d", Verb(v), n))
		}
	}
	return strings.Join(parts, ", ")
}

// appendTo encodes the operation as one message; SetTxChecksum as none, since it
// is no matter of netlink. Operations on the device
// itself find it by name, since it may not exist yet, all others by index.
func (o *Op) appendTo(b *rtnl.Batch, index int) {
	if o.Odd != nil {
		b.DelDumped(o.Odd.Text, o.Odd.Kind, o.Odd.Raw)
		return
	}
	switch o.Verb {
	case AddAddress:
		b.AddAddr(index, o.Subnet)
	case DeleteAddress:
		b.DelAddr(index, o.Subnet)
	case SetForward:
		b.ReplaceFDB(rtnl.Neighbor{Index: index, IP: o.IP, MAC: o.MAC[:]})
	case DeleteForward:
		b.DelFDB(rtnl.Neighbor{Index: index, IP: o.IP, MAC: o.MAC[:]})
	case SetNeighbor:
		b.ReplaceNeighbor(rtnl.Neighbor{Index: index, IP: o.IP, MAC: o.MAC[:]})
	case DeleteNeighbor:
		b.DelNeighbor(rtnl.Neighbor{Index: index, IP: o.IP})
	case ShowWay, SetRoute, HideWay, DeleteRoute:
		o.appendRoute(b, index)
	default:
		o.appendDevice(b)
	}
}

func (o *Op) appendRoute(b *rtnl.Batch, index int) {
	if o.Over != 0 {
		index = o.Over
	}
	r := rtnl.Route{Dst: o.Subnet, Via: o.IP, Index: index, Onlink: true, Protocol: protocol(o.Subnet)}
	way := rtnl.Route{Dst: subnet.Host(o.IP), Index: index}
	switch {
	case o.Verb == ShowWay:
		b.AddRoute(way)
	case o.Verb == HideWay:
		b.DelRoute(way)
	case o.Verb == DeleteRoute:
		b.DelRoute(r)
	case o.Text == "":
		b.AddRoute(r) // there was none: one that appears is another device's
	default:
		b.ReplaceRoute(r)
	}
}

func (o *Op) appendDevice(b *rtnl.Batch) {
	switch d := o.Device; o.Verb {
	case DeleteDevice:
		b.DelLink(o.Text)
	case CreateDevice:
		b.AddVXLAN(d.message())
	case SetTunnel:
		b.SetVXLAN(d.message())
	case SetAlias:
		b.SetAlias(d.Name, d.Alias)
	case SetMTU:
		b.SetMTU(d.Name, d.MTU)
	case SetMAC:
		b.SetMAC(d.Name, d.MAC[:])
	case SetNoAutoAddress:
		b.SetNoAutoAddress(d.Name)
	case SetUp:
		b.SetNamedUp(d.Name)
	}
}

func (d *Device) message() rtnl.VXLAN {
	return rtnl.VXLAN{Name: d.Name, MAC: d.MAC[:], MTU: d.MTU, VXLANTunnel: d.Tunnel.message()}
}
