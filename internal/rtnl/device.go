package rtnl

import (
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// SetNoProtoDown gives a link the carrier back that a program has taken away.
func (b *Batch) SetNoProtoDown(name string) *nl.Request {
	return b.setLink("turn protodown of "+name+" off", name, nl.Attrs(nil).Uint8(iflaProtoDown, 0))
}

// Qdisc is a queueing discipline of an interface.
type Qdisc struct {
	Index  int
	Kind   string // "noqueue", "clsact", ...
	Parent uint32 // TC_H_ROOT, TC_H_INGRESS, or a class
}

// EachQdisc lists the queueing disciplines of all interfaces.
func (c *Conn) EachQdisc(each func(Qdisc)) error {
	return c.list("list qdiscs", unix.RTM_GETQDISC, make(nl.Attrs, sizeofTcMsg), func(body []byte) {
		each(Qdisc{
			Index:  int(native.Uint32(body[4:])),
			Parent: native.Uint32(body[12:]),
			Kind:   nl.Attrs(body[sizeofTcMsg:]).Get(tcaKind).Text(),
		})
	})
}

const (
	sizeofTcMsg = 20 // struct tcmsg, linux/rtnetlink.h
	tcaKind     = 1  // TCA_KIND, linux/rtnetlink.h
)
