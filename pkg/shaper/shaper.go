// Package shaper limits the bandwidth of a pod, as the reference bandwidth plugin
// does. The kernel shapes only what a device sends. So what the pod receives is
// shaped at the host's end of the veth pair, and what the pod sends is first led
// through a device of its own.
package shaper

import (
	"fmt"
	"math"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Limits are a pod's bandwidth limits, seen from the pod. The zero value sets no
// limit.
type Limits struct {
	Ingress Rate // what the pod receives
	Egress  Rate // what the pod sends
}

// Rate is a token bucket. The zero value doesn't limit.
type Rate struct {
	Rate  uint64 // bits a second
	Burst uint64 // bits that may be sent at once
}

// latency is how long a packet may wait in a token bucket's queue; then it is
// dropped. It is the value of the reference bandwidth plugin.
const latency = 0.025 // seconds

// Port is what Add limits.
type Port struct {
	Link   string // the host's end of the pod's veth pair
	Shaper string // name of the device to make for what the pod sends
	MTU    int    // of both, in bytes
}

// Add limits a port in the network namespace of the calling thread. The limits go
// with the devices.
func Add(p Port, l Limits) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a route netlink socket: %w", err)
	}
	defer h.Close()
	port, err := h.LinkByName(p.Link)
	if err != nil {
		return fmt.Errorf("look up %s: %w", p.Link, err)
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
	attrs.Name, attrs.MTU, attrs.TxQLen, attrs.Flags = p.Shaper, p.MTU, defaultQueue, net.FlagUp
	if err := h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("create %s to limit what the pod sends (kernel module ifb): %w", p.Shaper, err)
	}
	through, err := h.LinkByName(p.Shaper)
	if err != nil {
		return fmt.Errorf("look up %s: %w", p.Shaper, err)
	}
	if err := addBucket(h, through, l.Egress); err != nil {
		return err
	}
	return redirect(h, port, through)
}

const defaultQueue = 1000 // packets, as Ethernet devices have

// addBucket puts a token bucket filter on a device.
func addBucket(h *netlink.Handle, link netlink.Link, r Rate) error {
	if err := h.QdiscAdd(r.bucket(link.Attrs().Index)); err != nil {
		return fmt.Errorf("limit %s to %d bit/s (kernel module sch_tbf): %w", link.Attrs().Name, r.Rate, err)
	}
	return nil
}

// bucket returns the token bucket filter of a rate. The filter counts in bytes and
// in the kernel's own ticks (tc-tbf(8)).
func (r Rate) bucket(index int) *netlink.Tbf {
	rate, burst := float64(r.Rate)/8, float64(r.Burst)/8
	const microseconds = 1e6
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       uint64(rate),
		Limit:      clamp(rate*latency + burst),
		Buffer:     clamp(burst / rate * microseconds * netlink.TickInUsec()),
	}
}

func clamp(v float64) uint32 { return uint32(min(v, math.MaxUint32)) }

// redirect leads all that comes in from one device through another.
func redirect(h *netlink.Handle, from, through netlink.Link) error {
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	if err := h.QdiscAdd(ingress); err != nil {
		return fmt.Errorf("redirect %s (kernel module sch_ingress): %w", from.Attrs().Name, err)
	}
	err := h.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from.Attrs().Index, Parent: ingress.Handle, Priority: 1, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{netlink.NewMirredAction(through.Attrs().Index)},
	})
	if err != nil {
		return fmt.Errorf("redirect %s to %s (kernel modules cls_u32, act_mirred): %w", from.Attrs().Name, through.Attrs().Name, err)
	}
	return nil
}
