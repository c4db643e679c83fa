package rtnl

import (
	"errors"
	"net"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Veth is a pair of which one end is born in another network namespace.
type Veth struct {
	Name   string
	MAC    net.HardwareAddr
	Master int // interface index of the bridge that gets the host's end
	MTU    int // of both ends
	Peer   VethPeer
}

// VethPeer is the end in the other namespace.
type VethPeer struct {
	Name  string
	MAC   net.HardwareAddr
	Netns int // file descriptor of the network namespace
}

// Port is what can be set on a link only after it was born.
type Port struct {
	Name     string
	Alias    string // shown by ip link; at most 255 bytes; empty leaves it as it is
	Isolated bool   // reaches no other isolated port of the bridge
	Hairpin  bool   // gets back what it sent, if that is where it goes
}

const (
	infoSlaveData      = 5 // IFLA_INFO_SLAVE_DATA, linux/if_link.h
	extFilterSkipStats = 8 // RTEXT_FILTER_SKIP_STATS, linux/rtnetlink.h
	// IFLA_INET6_ADDR_GEN_MODE and IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
	inet6AddrGenMode = 8
	noAddress        = 1
	portHairpin      = 4  // IFLA_BRPORT_MODE, linux/if_link.h
	portMulticast    = 27 // IFLA_BRPORT_MCAST_FLOOD, linux/if_link.h
	portBroadcast    = 30 // IFLA_BRPORT_BCAST_FLOOD, linux/if_link.h
	portIsolated     = 33 // IFLA_BRPORT_ISOLATED, linux/if_link.h
)

// AddVeth makes the pair, both ends down. What else a port needs comes before
// SetUp: the kernel tells everybody of a change to a link that is up, which
// takes it longer the more links there are.
func (b *Batch) AddVeth(v Veth) {
	op := "create veth " + v.Name + " with its peer " + v.Peer.Name + " in the pod"
	b.begin(op, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifInfo(0, 0))
	b.vethEnd(v.Name, v.MAC, v.MTU)
	b.attr32(unix.IFLA_MASTER, uint32(v.Master))
	b.nest(unix.IFLA_LINKINFO, func() {
		b.attrString(unix.IFLA_INFO_KIND, "veth")
		b.nest(unix.IFLA_INFO_DATA, func() {
			b.nest(vethInfoPeer, func() {
				b.buf = append(b.buf, ifInfo(0, 0)...)
				b.vethEnd(v.Peer.Name, v.Peer.MAC, v.MTU)
				b.attr32(unix.IFLA_NET_NS_FD, uint32(v.Peer.Netns))
			})
		})
	})
}

const vethInfoPeer = 1 // VETH_INFO_PEER, linux/veth.h

// vethEnd asks for one queue in each direction, which is what a veth works with
// if nobody says otherwise. But then the kernel makes one for each CPU first,
// and takes the others away again (veth_init_queues in drivers/net/veth.c): at
// each end it waits for an RCU grace period, with the lock in hand that all
// network configuration of the machine needs.
func (b *Batch) vethEnd(name string, mac net.HardwareAddr, mtu int) {
	b.linkBasics(name, mac, mtu)
	b.attr32(unix.IFLA_NUM_TX_QUEUES, 1)
	b.attr32(unix.IFLA_NUM_RX_QUEUES, 1)
}

func (b *Batch) linkBasics(name string, mac net.HardwareAddr, mtu int) {
	b.attrString(unix.IFLA_IFNAME, name)
	b.attr32(unix.IFLA_MTU, uint32(mtu))
	b.attr(unix.IFLA_ADDRESS, mac)
}

// SetPort sets alias and bridge port flags of a link that is a bridge's port.
// Broadcasts and multicasts of other ports don't go to it, those of the bridge
// itself do (br_flood in net/bridge/br_forward.c): what each new interface
// sends of its own accord would else be copied to all pods of the host.
func (b *Batch) SetPort(p Port) {
	b.begin("set bridge port "+p.Name, unix.RTM_NEWLINK, 0, ifInfo(0, 0))
	b.attrString(unix.IFLA_IFNAME, p.Name)
	if p.Alias != "" {
		b.attr(unix.IFLA_IFALIAS, []byte(p.Alias)) // without a zero, which would count
	}
	b.nest(unix.IFLA_LINKINFO, func() {
		b.attrString(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		b.nest(infoSlaveData, func() {
			b.attr8(portIsolated, boolByte(p.Isolated))
			b.attr8(portHairpin, boolByte(p.Hairpin))
			b.attr8(portMulticast, 0)
			b.attr8(portBroadcast, 0)
		})
	})
}

// SetUp sets a link up.
func (b *Batch) SetUp(index int) {
	b.begin("set link "+strconv.Itoa(index)+" up", unix.RTM_NEWLINK, 0, ifInfo(index, unix.IFF_UP))
}

// DelLink deletes the link of that name; with a veth goes its peer.
func (b *Batch) DelLink(name string) {
	b.begin("delete link "+name, unix.RTM_DELLINK, 0, ifInfo(0, 0))
	b.attrString(unix.IFLA_IFNAME, name)
}

// Link is what is needed to know of an interface where microseconds count.
type Link struct {
	Name   string
	Index  int
	Master int // index of the bridge that it is a port of, or 0
	MTU    int // bytes
	MAC    net.HardwareAddr
	Flags  uint32 // IFF_UP and others
	Kind   string // "bridge", "veth"; empty for hardware and lo
}

// Up tells whether the interface was set up.
func (l Link) Up() bool { return l.Flags&unix.IFF_UP != 0 }

// Link looks an interface up by name. If there is none the error is
// unix.ENODEV.
func (c *Conn) Link(name string) (Link, error) {
	var b Batch
	b.begin("look up link "+name, unix.RTM_GETLINK, 0, ifInfo(0, 0))
	b.attrString(unix.IFLA_IFNAME, name)
	b.attr32(unix.IFLA_EXT_MASK, extFilterSkipStats)
	var link Link
	err := c.query(&b, func(typ uint16, payload []byte) error {
		if typ == unix.RTM_NEWLINK && len(payload) >= unix.SizeofIfInfomsg {
			link = parseLink(payload)
		}
		return nil
	})
	if err == nil && link.Index == 0 {
		err = errors.New("look up link " + name + ": the kernel answered without a link")
	}
	return link, err
}

// parseLink reads a struct ifinfomsg and the attributes after it.
func parseLink(payload []byte) Link {
	attrs := payload[unix.SizeofIfInfomsg:]
	return Link{
		Name:   unix.ByteSliceToString(find(attrs, unix.IFLA_IFNAME)),
		Index:  int(native.Uint32(payload[4:])),
		Flags:  native.Uint32(payload[8:]),
		Master: int(find32(attrs, unix.IFLA_MASTER)),
		MTU:    int(find32(attrs, unix.IFLA_MTU)),
		MAC:    slices.Clone(find(attrs, unix.IFLA_ADDRESS)),
		Kind:   unix.ByteSliceToString(find(find(attrs, unix.IFLA_LINKINFO), unix.IFLA_INFO_KIND)),
	}
}

// find32 is a 32 bit attribute's value, 0 if there is none.
func find32(attrs []byte, typ uint16) uint32 {
	v := find(attrs, typ)
	if len(v) < 4 {
		return 0
	}
	return native.Uint32(v)
}

// ifInfo is a struct ifinfomsg: index, and the flags to set.
func ifInfo(index int, flags uint32) []byte {
	b := make([]byte, 4, unix.SizeofIfInfomsg)
	b = native.AppendUint32(b, uint32(index))
	b = native.AppendUint32(b, flags)
	return native.AppendUint32(b, flags) // the flags that are changed
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}
