package shaper

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Inspect compares the limits of a port, in the network namespace of the calling
// thread, with the kernel. It returns what differs, a phrase each. If the device that
// the pod's packets are led through is gone or down, the pod can't send.
func Inspect(p Port, l Limits) ([]string, error) {
	if l == (Limits{}) {
		return nil, nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	defer h.Close()
	diffs, err := inspectBucket(h, p.Link, l.Ingress)
	if err != nil || l.Egress.Rate == 0 {
		return diffs, err
	}
	sending, err := inspectBucket(h, p.Shaper, l.Egress)
	if err != nil {
		return nil, err
	}
	led, err := inspectRedirect(h, p)
	return append(append(diffs, sending...), led...), err
}

// inspectBucket compares the token bucket filter of a device.
func inspectBucket(h *netlink.Handle, name string, want Rate) ([]string, error) {
	link, err := h.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return []string{fmt.Sprintf("%s is gone, which limits the pod's bandwidth", name)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	if want.Rate == 0 {
		return nil, nil
	}
	var diffs []string
	if link.Attrs().Flags&net.FlagUp == 0 {
		diffs = append(diffs, name+" is down")
	}
	qdiscs, err := h.QdiscList(link)
	if err != nil {
		return nil, fmt.Errorf("list the qdiscs of %s: %w", name, err)
	}
	bucket := want.bucket(link.Attrs().Index)
	for _, q := range qdiscs {
		if tbf, ok := q.(*netlink.Tbf); ok && tbf.Rate == bucket.Rate && tbf.Limit == bucket.Limit {
			return diffs, nil
		}
	}
	return append(diffs, fmt.Sprintf("%s lacks the limit of %d bit/s", name, want.Rate)), nil
}

// inspectRedirect looks for the filter that leads what the pod sends through a device.
func inspectRedirect(h *netlink.Handle, p Port) ([]string, error) {
	from, err := h.LinkByName(p.Link)
	if err != nil {
		return nil, nil // inspectBucket told
	}
	through, err := h.LinkByName(p.Shaper)
	if err != nil {
		return nil, nil
	}
	filters, err := h.FilterList(from, netlink.MakeHandle(0xffff, 0))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("list the filters of %s: %w", p.Link, err)
	}
	for _, f := range filters {
		u32, ok := f.(*netlink.U32)
		if !ok {
			continue
		}
		for _, a := range u32.Actions {
			if m, ok := a.(*netlink.MirredAction); ok && m.Ifindex == through.Attrs().Index {
				return nil, nil
			}
		}
	}
	return []string{fmt.Sprintf("%s does not lead what the pod sends through %s", p.Link, p.Shaper)}, nil
}
