package vxlan

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
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
	SetNoMaster
	SetTunnel
	SetMTU
	SetMAC
	SetNoAutoAddress
	SetTxChecksum
	SetResolvesNeighbors
	SetNoProtoDown
	SetUp
	AddAddress
	DeleteAddress
	DeleteUnmanaged
	SetFDB
	SetNeighbor
	AddHostRoute
	SetRoute
	DeleteHostRoute
	DeleteRoute
	DeleteNeighbor
	DeleteFDB
)

// verbs are the texts for the log, which counts the operations of a large sync by
// verb.
var verbs = [...]string{
	DeleteDevice:         "delete device",
	CreateDevice:         "create device",
	SetAlias:             "set alias",
	SetNoMaster:          "take the device off its master",
	SetTunnel:            "set tunnel",
	SetMTU:               "set MTU",
	SetMAC:               "set MAC address",
	SetNoAutoAddress:     "turn automatic IPv6 address off",
	SetTxChecksum:        "set transmit checksum offload",
	SetResolvesNeighbors: "turn ARP and multicast on",
	SetNoProtoDown:       "turn protodown off",
	SetUp:                "set device up",
	AddAddress:           "add address",
	DeleteAddress:        "delete address",
	DeleteUnmanaged:      "delete unmanaged entry",
	SetFDB:               "set FDB entry",
	SetNeighbor:          "set neighbour",
	AddHostRoute:         "add host route to a next hop",
	SetRoute:             "set route",
	DeleteHostRoute:      "delete host route to a next hop",
	DeleteRoute:          "delete route",
	DeleteNeighbor:       "delete neighbour",
	DeleteFDB:            "delete FDB entry",
}

func (v Verb) String() string { return verbs[v] }

// Op is one change: one netlink message, except for SetTxChecksum. The verb
// determines which fields are set.
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
	// Unexpected is the entry to delete if Desired would never make it.
	Unexpected *Unexpected
}

func (o Op) String() string {
	if o.Unexpected != nil {
		return "delete " + o.Unexpected.Text
	}
	switch o.Verb {
	case DeleteDevice:
		return o.Verb.String() + " " + o.Text
	case AddAddress, DeleteAddress:
		return o.Verb.String() + " " + o.Subnet.String()
	case SetFDB, DeleteFDB:
		return o.replacing(fmt.Sprintf("%s %s to %s", o.Verb, o.MAC, o.IP))
	case SetNeighbor, DeleteNeighbor:
		return o.replacing(fmt.Sprintf("%s %s to %s", o.Verb, o.IP, o.MAC))
	case SetRoute, DeleteRoute:
		return o.replacing(fmt.Sprintf("%s %s %s", o.Verb, o.Subnet, describeNextHop(o.IP, o.Over)))
	case AddHostRoute, DeleteHostRoute:
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

// describe is the text of the part of the device that a change is about.
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
	case SetNoAutoAddress, SetResolvesNeighbors, SetNoProtoDown:
		return "on " + d.Name
	case SetTunnel:
		return fmt.Sprintf("of %s: from %s on interface %d, TTL %s, TOS %s, DF %s", d.Name, d.Tunnel.Local, d.Tunnel.Underlay, d.Tunnel.TTL, d.Tunnel.TOS, d.Tunnel.DF)
	case SetTxChecksum:
		return fmt.Sprintf("of %s: %t", d.Name, d.TxChecksum)
	}
	return d.Name
}

// Changes are the operations that a sync carried out.
type Changes []Op

// changesShown is how many changes are named one by one; nobody reads a longer
// log line.
const changesShown = 8

// describe names each change, or counts them if they are many.
func (c Changes) describe() []string {
	var parts []string
	if len(c) <= changesShown {
		for _, op := range c {
			parts = append(parts, op.String())
		}
		return parts
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
	return parts
}

// request adds the operation to a batch. SetTxChecksum gives no request, since
// netlink does not set it. Operations on the device itself identify it by name,
// since it may not exist yet; all others by index.
//
// A request tolerates errors which mean that there is nothing left to do:
// another program made or deleted the object first, or the object went with its
// device.
func (o *Op) request(b *rtnl.Batch, index int) *nl.Request {
	switch {
	case o.Unexpected != nil:
		return absent(b.DelDumped(o.Unexpected.Text, o.Unexpected.Kind, o.Unexpected.Raw))
	case o.Verb <= SetUp:
		return o.deviceRequest(b)
	}
	peer := rtnl.Neighbor{Index: index, IP: o.IP, MAC: o.MAC[:]}
	switch o.Verb {
	case AddAddress:
		return b.AddAddr(index, o.Subnet).Tolerate(unix.EEXIST)
	case DeleteAddress:
		return absent(b.DelAddr(index, o.Subnet))
	case SetFDB:
		return b.ReplaceFDB(peer)
	case DeleteFDB:
		return absent(b.DelFDB(peer))
	case SetNeighbor:
		return b.ReplaceNeighbor(peer)
	case DeleteNeighbor:
		return absent(b.DelNeighbor(peer))
	}
	return o.routeRequest(b, index)
}

// absent tolerates errors which say that the object to delete does not exist.
func absent(r *nl.Request) *nl.Request {
	return r.Tolerate(unix.ESRCH, unix.ENOENT, unix.EADDRNOTAVAIL)
}

func (o *Op) routeRequest(b *rtnl.Batch, index int) *nl.Request {
	if o.Over != 0 {
		index = o.Over
	}
	r := rtnl.Route{Dst: o.Subnet, Via: o.IP, Index: index, Onlink: true, Protocol: protocol(o.Subnet)}
	host := rtnl.Route{Dst: subnet.Host(o.IP), Index: index}
	switch {
	case o.Verb == AddHostRoute:
		return b.AddRoute(host).Tolerate(unix.EEXIST)
	case o.Verb == DeleteHostRoute:
		return absent(b.DelRoute(host))
	case o.Verb == DeleteRoute:
		return absent(b.DelRoute(r))
	case o.Text == "":
		return b.AddRoute(r) // not ReplaceRoute, which could replace another device's route that appeared meanwhile
	}
	return b.ReplaceRoute(r)
}

func (o *Op) deviceRequest(b *rtnl.Batch) *nl.Request {
	d := o.Device
	switch o.Verb {
	case DeleteDevice:
		return b.DelLink(o.Text).Tolerate(unix.ENODEV)
	case CreateDevice:
		return b.AddVXLAN(d.message())
	case SetTunnel:
		return b.SetVXLAN(d.message())
	case SetAlias:
		return b.SetAlias(d.Name, d.Alias)
	case SetMTU:
		return b.SetMTU(d.Name, d.MTU)
	case SetMAC:
		return b.SetMAC(d.Name, d.MAC[:])
	case SetNoAutoAddress:
		return b.SetNoAutoAddress(d.Name)
	case SetNoMaster:
		return b.SetNoMaster(d.Name)
	case SetResolvesNeighbors:
		return b.SetResolvesNeighbors(d.Name)
	case SetNoProtoDown:
		return b.SetNoProtoDown(d.Name)
	case SetUp:
		return b.SetUpByName(d.Name)
	}
	return nil
}

func (d *Device) message() rtnl.VXLAN {
	return rtnl.VXLAN{Name: d.Name, MAC: d.MAC[:], MTU: d.MTU, Tunnel: d.Tunnel}
}
