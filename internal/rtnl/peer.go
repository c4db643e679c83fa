package rtnl

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// VethEntry is one end of a veth pair in a list of the kernel.
type VethEntry struct {
	Name string
	// Peer is the index of the other end, in its own network namespace.
	Peer int
	// Netns is how this namespace calls the other end's namespace (nsid), for
	// EachAddrIn. It is -1 if both ends are in this namespace.
	Netns int32
}

// EachVeth lists the ends of veth pairs.
func (c *Conn) EachVeth(each func(VethEntry)) error {
	const kind = "veth"
	body := ifInfo(0, 0).Uint32(unix.IFLA_EXT_MASK, extFilterSkipStats).
		Nest(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nl.Attrs(nil).Text(unix.IFLA_INFO_KIND, kind))
	return c.list("list veth pairs", unix.RTM_GETLINK, body, func(body []byte) {
		link := parseLink(body)
		if link.Kind != kind {
			return
		}
		attrs := nl.Attrs(body[unix.SizeofIfInfomsg:])
		e := VethEntry{Name: link.Name, Peer: int(attrs.Get(unix.IFLA_LINK).Uint32()), Netns: -1}
		if id := attrs.Get(unix.IFLA_LINK_NETNSID); id != nil {
			e.Netns = int32(id.Uint32())
		}
		each(e)
	})
}

const ifaTargetNetnsID = 10 // IFA_TARGET_NETNSID, linux/if_addr.h

// EachAddrIn lists the addresses of an interface in another network namespace,
// which netns names (VethEntry.Netns). It enters nothing: the kernel answers. A
// namespace or interface that is gone has no addresses, nor has one that the kernel
// keeps from the caller: in a container that is a host, the peer of eth0 is in a
// namespace of the machine around it. Linux 5.0 or later.
func (c *Conn) EachAddrIn(netns int32, index int, each func(AddrEntry)) error {
	for _, f := range family.All() {
		body := native.AppendUint32(nl.Attrs{byte(f), 0, 0, 0}, uint32(index))
		body = nl.Attrs(body).Uint32(ifaTargetNetnsID, uint32(netns))
		err := c.list("list addresses in another network namespace", unix.RTM_GETADDR, body, func(body []byte) {
			if a := parseAddr(body); body[0] == byte(f) && a.Index == index {
				each(a)
			}
		})
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		case err != nil:
			return err
		}
	}
	return nil
}
