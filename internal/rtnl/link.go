package rtnl

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Veth is a pair whose peer is in another network namespace.
type Veth struct {
	Name   string
	MAC    net.HardwareAddr
	Master int // index of the bridge that the host's end becomes a port of
	MTU    int // of both ends
	Peer   VethPeer
}

// VethPeer is the end in the other namespace.
type VethPeer struct {
	Name  string
	MAC   net.HardwareAddr
	Netns int // file descriptor of the network namespace
}

// Port holds the settings of a bridge's port, which a link can get only once it
// exists.
type Port struct {
	Name     string
	Alias    string // shown by ip link; at most 255 bytes; empty for no change
	Isolated bool   // the bridge forwards nothing to other isolated ports
	Hairpin  bool   // the bridge may send a frame back to this port
}

// hooked are the reserved destinations (01:80:c2:00:00:00 to 0f, IEEE 802.1Q table
// 8-1), a bit each, that the bridge treats like all others. Otherwise it learns the
// sender of such a frame and hands the frame to the host's own protocols, in the name
// of the port, and no table of nftables for bridges sees the frame (br_handle_frame in
// net/bridge/br_input.c). Number 1 is for pause frames, which the bridge drops.
const hooked = 0xfffd

const (
	infoSlaveData      = 5 // IFLA_INFO_SLAVE_DATA, linux/if_link.h
	extFilterSkipStats = 8 // RTEXT_FILTER_SKIP_STATS, linux/rtnetlink.h
	// IFLA_INET6_ADDR_GEN_MODE and IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
	inet6AddrGenMode = 8
	noAddress        = 1
	portHairpin      = 4  // IFLA_BRPORT_MODE, linux/if_link.h
	portForwardMask  = 31 // IFLA_BRPORT_GROUP_FWD_MASK, linux/if_link.h
	portMulticast    = 27 // IFLA_BRPORT_MCAST_FLOOD, linux/if_link.h
	portBroadcast    = 30 // IFLA_BRPORT_BCAST_FLOOD, linux/if_link.h
	portIsolated     = 33 // IFLA_BRPORT_ISOLATED, linux/if_link.h
)

// AddVeth makes the pair, both ends down. Set the port up last: the kernel
// announces each change to a link that is up, which takes longer the more links
// there are.
func (b *Batch) AddVeth(v Veth) *nl.Request {
	op := "create veth " + v.Name + " with its peer " + v.Peer.Name + " in the pod"
	peer := vethEnd(v.Peer.Name, v.Peer.MAC, v.MTU).Uint32(unix.IFLA_NET_NS_FD, uint32(v.Peer.Netns))
	info := nl.Attrs(nil).Text(unix.IFLA_INFO_KIND, "veth").
		Nest(unix.IFLA_INFO_DATA, nl.Attrs(nil).Nest(vethInfoPeer, peer))
	body := vethEnd(v.Name, v.MAC, v.MTU).
		Uint32(unix.IFLA_MASTER, uint32(v.Master)).
		Nest(unix.IFLA_LINKINFO, info)
	return b.add(op, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
}

const vethInfoPeer = 1 // VETH_INFO_PEER, linux/veth.h

// vethEnd describes an end with one queue in each direction, as a veth has by
// default. The request says so explicitly, because otherwise the kernel makes a
// queue for each CPU and then removes all but one (veth_init_queues in
// drivers/net/veth.c). At each end it waits for an RCU grace period, while it
// holds the lock that all network configuration of the machine needs.
func vethEnd(name string, mac net.HardwareAddr, mtu int) nl.Attrs {
	return linkBasics(name, mac, mtu).Uint32(unix.IFLA_NUM_TX_QUEUES, 1).Uint32(unix.IFLA_NUM_RX_QUEUES, 1)
}

func linkBasics(name string, mac net.HardwareAddr, mtu int) nl.Attrs {
	return named(name, 0).Uint32(unix.IFLA_MTU, uint32(mtu)).Bytes(unix.IFLA_ADDRESS, mac)
}

// SetPort sets the alias and the bridge port flags of a link that is a bridge's
// port. It stops the bridge from flooding broadcasts and multicasts of other
// ports to this port; those of the bridge itself still arrive (br_flood in
// net/bridge/br_forward.c). Otherwise all pods of the host would get a copy of
// the packets that every new interface sends unasked. No frame from the port gets past
// the bridge's hooks, see hooked.
func (b *Batch) SetPort(p Port) *nl.Request {
	body := named(p.Name, 0)
	if p.Alias != "" {
		body = body.Bytes(unix.IFLA_IFALIAS, []byte(p.Alias)) // no terminating zero: it would count towards the 255 bytes
	}
	flags := nl.Attrs(nil).
		Uint8(portIsolated, boolByte(p.Isolated)).
		Uint8(portHairpin, boolByte(p.Hairpin)).
		Uint8(portMulticast, 0).
		Uint8(portBroadcast, 0).
		Uint16(portForwardMask, hooked)
	body = body.Nest(unix.IFLA_LINKINFO,
		nl.Attrs(nil).Text(unix.IFLA_INFO_SLAVE_KIND, "bridge").Nest(infoSlaveData, flags))
	return b.add("set bridge port "+p.Name, unix.RTM_NEWLINK, 0, body)
}

// SetUp sets a link up.
func (b *Batch) SetUp(index int) *nl.Request {
	return b.add("set link "+strconv.Itoa(index)+" up", unix.RTM_NEWLINK, 0, ifInfo(index, unix.IFF_UP))
}

// SetUpByName sets a link up.
func (b *Batch) SetUpByName(name string) *nl.Request {
	return b.add("set link "+name+" up", unix.RTM_NEWLINK, 0, named(name, unix.IFF_UP))
}

// DelLink deletes the link of that name; a veth's peer goes with it.
func (b *Batch) DelLink(name string) *nl.Request {
	return b.add("delete link "+name, unix.RTM_DELLINK, 0, named(name, 0))
}

// SetMTU changes a link's MTU, in bytes.
func (b *Batch) SetMTU(name string, mtu int) *nl.Request {
	return b.setLink(fmt.Sprintf("set MTU %d of %s", mtu, name), name, nl.Attrs(nil).Uint32(unix.IFLA_MTU, uint32(mtu)))
}

// SetMAC changes a link's MAC address.
func (b *Batch) SetMAC(name string, mac net.HardwareAddr) *nl.Request {
	return b.setLink(fmt.Sprintf("set MAC address %s of %s", mac, name), name, nl.Attrs(nil).Bytes(unix.IFLA_ADDRESS, mac))
}

// SetAlias changes a link's alias.
func (b *Batch) SetAlias(name, alias string) *nl.Request {
	return b.setLink(fmt.Sprintf("set alias %q of %s", alias, name), name, nl.Attrs(nil).Text(unix.IFLA_IFALIAS, alias))
}

// SetNoAutoAddress keeps the kernel from giving a link a link-local IPv6
// address when it goes up. It fails where the link has no IPv6.
func (b *Batch) SetNoAutoAddress(name string) *nl.Request {
	mode := nl.Attrs(nil).Uint8(inet6AddrGenMode, noAddress)
	return b.setLink("keep "+name+" from getting a link-local IPv6 address", name,
		nl.Attrs(nil).Nest(unix.IFLA_AF_SPEC, nl.Attrs(nil).Nest(unix.AF_INET6, mode)))
}

func (b *Batch) setLink(op, name string, attrs nl.Attrs) *nl.Request {
	return b.add(op, unix.RTM_NEWLINK, 0, append(named(name, 0), attrs...))
}

// Link is an interface, with the properties that ADD needs.
type Link struct {
	Name   string
	Index  int
	Master int // index of the bridge that it is a port of, or 0
	MTU    int // bytes
	MAC    net.HardwareAddr
	Flags  uint32 // IFF_UP and others
	Kind   string // "bridge", "veth"; empty for hardware and lo
}

// Up reports whether the interface is set up (IFF_UP).
func (l Link) Up() bool { return l.Flags&unix.IFF_UP != 0 }

// Carrier reports whether the interface has a carrier: the other end of a veth pair is
// up, or one of a bridge's ports.
func (l Link) Carrier() bool { return l.Flags&unix.IFF_LOWER_UP != 0 }

// ResolvesNeighbors reports whether the interface asks for the MAC addresses of
// neighbours, and has multicast groups. Interfaces of the kinds here do, unless
// somebody turned it off ("ip link set DEVICE arp off", "multicast off").
func (l Link) ResolvesNeighbors() bool {
	return l.Flags&unix.IFF_NOARP == 0 && l.Flags&unix.IFF_MULTICAST != 0
}

// SetResolvesNeighbors makes ResolvesNeighbors true.
func (b *Batch) SetResolvesNeighbors(name string) *nl.Request {
	header := make([]byte, 8, 64)
	header = native.AppendUint32(header, unix.IFF_MULTICAST)
	header = native.AppendUint32(header, unix.IFF_NOARP|unix.IFF_MULTICAST)
	return b.add("turn ARP and multicast of "+name+" on", unix.RTM_NEWLINK, 0, nl.Attrs(header).Text(unix.IFLA_IFNAME, name))
}

// Link returns the interface of that name. The error is unix.ENODEV if there is
// none.
func (c *Conn) Link(name string) (Link, error) {
	m, err := c.getLink(name)
	if err != nil {
		return Link{}, err
	}
	return parseLink(m.Body), nil
}

// parseLink reads a struct ifinfomsg and the attributes after it.
func parseLink(body []byte) Link {
	attrs := nl.Attrs(body[unix.SizeofIfInfomsg:])
	return Link{
		Name:   attrs.Get(unix.IFLA_IFNAME).Text(),
		Index:  int(native.Uint32(body[4:])),
		Flags:  native.Uint32(body[8:]),
		Master: int(attrs.Get(unix.IFLA_MASTER).Uint32()),
		MTU:    int(attrs.Get(unix.IFLA_MTU).Uint32()),
		MAC:    net.HardwareAddr(slices.Clone(attrs.Get(unix.IFLA_ADDRESS))),
		Kind:   attrs.Get(unix.IFLA_LINKINFO, unix.IFLA_INFO_KIND).Text(),
	}
}

// ifInfo returns a struct ifinfomsg: index, and the flags to set.
func ifInfo(index int, flags uint32) nl.Attrs {
	const typical = 128 // bytes of a message about a link
	b := make([]byte, 4, typical)
	b = native.AppendUint32(b, uint32(index))
	b = native.AppendUint32(b, flags)
	return native.AppendUint32(b, flags) // the mask: which flags to change
}

// named is ifInfo for a link that its name identifies.
func named(name string, flags uint32) nl.Attrs { return ifInfo(0, flags).Text(unix.IFLA_IFNAME, name) }

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}
