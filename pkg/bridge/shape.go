package bridge

import (
	"fmt"
	"math"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// Limits are a pod's bandwidth limits, seen from the pod. The zero value is
// none.
type Limits struct {
	Ingress Rate // what the pod receives
	Egress  Rate // what the pod sends
}

// Rate is a token bucket. The zero value doesn't limit.
type Rate struct {
	Rate  uint64 // bits a second
	Burst uint64 // bits that may go at once
}

// latency is how long a packet may wait in a token bucket's queue; then it is
// dropped. It is the value of the reference bandwidth plugin.
const latency = 0.025 // seconds

// Shape limits what goes through a port. The kernel shapes only what a device
// sends: what the pod receives is shaped at the host's end of the veth pair,
// and what it sends is led through a device of its own, shaper, first.
func (k *Kernel) Shape(p Port, shaper string, l Limits) error {
	h, err := k.lib()
	if err != nil {
		return err
	}
	port, err := k.conn.Link(p.HostName)
	if err != nil {
		return err
	}
	if l.Ingress.Rate > 0 {
		if err := addBucket(h, port, l.Ingress); err != nil {
			return err
		}
	}
	if l.Egress.Rate == 0 {
		return nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.TxQLen, attrs.Flags = shaper, p.MTU, defaultQueue, net.FlagUp
	if err := h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("create %s to limit what the pod sends (kernel module ifb): %w", shaper, err)
	}
	through, err := k.conn.Link(shaper)
	if err != nil {
		return err
	}
	if err := addBucket(h, through, l.Egress); err != nil {
		return err
	}
	return redirect(h, port, through)
}

const defaultQueue = 1000 // packets, as Ethernet devices have

// addBucket puts a token bucket filter on a device. Its parameters are in bytes
// and in the kernel's own ticks (tc-tbf(8)).
func addBucket(h *netlink.Handle, link rtnl.Link, r Rate) error {
	rate, burst := float64(r.Rate)/8, float64(r.Burst)/8
	const microseconds = 1e6
	tbf := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       uint64(rate),
		Limit:      clamp(rate*latency + burst),
		Buffer:     clamp(burst / rate * microseconds * netlink.TickInUsec()),
	}
	if err := h.QdiscAdd(tbf); err != nil {
		return fmt.Errorf("limit %s to %d bit/s (kernel module sch_tbf): %w", link.Name, r.Rate, err)
	}
	return nil
}

func clamp(v float64) uint32 { return uint32(min(v, math.MaxUint32)) }

// redirect leads all that comes in from one device through another.
func redirect(h *netlink.Handle, from, through rtnl.Link) error {
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	if err := h.QdiscAdd(ingress); err != nil {
		return fmt.Errorf("redirect %s (kernel module sch_ingress): %w", from.Name, err)
	}
	err := h.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from.Index, Parent: ingress.Handle, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{netlink.NewMirredAction(through.Index)},
	})
	if err != nil {
		return fmt.Errorf("redirect %s to %s (kernel modules cls_u32, act_mirred): %w", from.Name, through.Name, err)
	}
	return nil
}
