package rtnl

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// BridgeOption is a setting of a bridge (IFLA_BR_*, linux/if_link.h).
type BridgeOption struct {
	Attr uint16
	Size int    // bytes: 1 or 4
	Name string // as ip-link(8) writes it
}

// Options of a bridge. Kernels without VLANs or netfilter on bridges lack some.
var (
	BridgeAgeing          = BridgeOption{4, 4, "ageing_time"} // in hundredths of a second
	BridgeSTP             = BridgeOption{5, 4, "stp_state"}
	BridgeVLANFiltering   = BridgeOption{7, 1, "vlan_filtering"}
	BridgeMcastSnooping   = BridgeOption{23, 1, "mcast_snooping"}
	BridgeNFCallIPTables  = BridgeOption{36, 1, "nf_call_iptables"}
	BridgeNFCallIP6Tables = BridgeOption{37, 1, "nf_call_ip6tables"}
	BridgeNFCallARPTables = BridgeOption{38, 1, "nf_call_arptables"}
	BridgeFDBMaxLearned   = BridgeOption{49, 4, "fdb_max_learned"}
)

// BridgeLink is a link with its options, if it is a bridge.
type BridgeLink struct {
	Link
	data nl.Attrs
}

// Option returns the value of an option, false if the kernel doesn't have it.
func (l BridgeLink) Option(o BridgeOption) (value uint32, ok bool) {
	v := l.data.Get(o.Attr)
	if o.Size == 1 {
		return uint32(v.Uint8()), v != nil
	}
	return v.Uint32(), v != nil
}

// Bridge is Link with the options of a bridge.
func (c *Conn) Bridge(name string) (BridgeLink, error) {
	m, err := c.getLink(name)
	if err != nil {
		return BridgeLink{}, err
	}
	data := nl.Attrs(m.Body[unix.SizeofIfInfomsg:]).Get(unix.IFLA_LINKINFO, unix.IFLA_INFO_DATA)
	return BridgeLink{parseLink(m.Body), append(nl.Attrs(nil), data...)}, nil
}

// getLink returns the kernel's message about a link.
func (c *Conn) getLink(name string) (nl.Message, error) {
	op := "look up link " + name
	m, err := c.nl.Get(nl.Request{
		Type: unix.RTM_GETLINK, Op: op, Body: named(name, 0).Uint32(unix.IFLA_EXT_MASK, extFilterSkipStats),
	})
	if err == nil && (m.Type != unix.RTM_NEWLINK || len(m.Body) < unix.SizeofIfInfomsg) {
		err = errors.New(op + ": the kernel answered without a link")
	}
	return m, err
}

// SetBridgeOption sets an option of a bridge.
func (b *Batch) SetBridgeOption(name string, o BridgeOption, value uint32) *nl.Request {
	data := nl.Attrs(nil)
	if o.Size == 1 {
		data = data.Uint8(o.Attr, uint8(value))
	} else {
		data = data.Uint32(o.Attr, value)
	}
	info := nl.Attrs(nil).Text(unix.IFLA_INFO_KIND, "bridge").Nest(unix.IFLA_INFO_DATA, data)
	return b.setLink("set "+o.Name+" of bridge "+name, name, nl.Attrs(nil).Nest(unix.IFLA_LINKINFO, info))
}

// SetNoMaster takes a link off the bridge, bond or VRF that it is part of.
func (b *Batch) SetNoMaster(name string) *nl.Request {
	return b.setLink("take "+name+" off its master", name, nl.Attrs(nil).Uint32(unix.IFLA_MASTER, 0))
}
