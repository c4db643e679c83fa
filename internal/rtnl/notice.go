package rtnl

import (
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Notice is one notification. Route and Neighbor are valid until the next
// notification.
type Notice struct {
	// Link and LinkName are the index and the name of the interface that the
	// notification is about. A notification about an address has only Link.
	Link     int
	LinkName string
	// Route is set in a notification about a route, and Neighbor in one about a
	// neighbour or FDB entry.
	Route    *RouteEntry
	Neighbor *NeighborEntry
	// Sysctl says that somebody wrote a sysctl of an interface, or of all
	// interfaces: forwarding or rp_filter.
	Sysctl bool
	// Rule says that a rule of policy routing was added or deleted.
	Rule bool
	// Gone says that the object was deleted.
	Gone bool
	// Replaces says that a route took the place of another.
	Replaces bool
}

// Notices receives the kernel's notifications about links, addresses and
// routes in one network namespace.
type Notices struct{ *nl.Subscription }

// Subscribe subscribes in the network namespace of the calling thread. The
// caller may name further groups: RTNLGRP_NEIGH for neighbours and FDB entries,
// RTNLGRP_IPV4_NETCONF and RTNLGRP_IPV6_NETCONF for sysctls, RTNLGRP_IPV4_RULE and
// RTNLGRP_IPV6_RULE for rules of policy routing.
func Subscribe(groups ...int) (*Notices, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, append(groups,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)...)
	if err != nil {
		return nil, err
	}
	return &Notices{s}, nil
}

// Drain calls each for all notifications that have come, and does not wait for
// more. A Notice is valid only during the call. The error is nl.ErrLost if some
// notifications are missing; Drain still reads all the others.
func (n *Notices) Drain(each func(Notice)) error {
	return n.Subscription.Drain(func(m nl.Message) error {
		notice, ok := parseNotice(m)
		if !ok {
			return nl.ErrLost
		}
		each(notice)
		return nil
	})
}

// parseNotice returns an empty Notice for other types of messages.
func parseNotice(m nl.Message) (n Notice, ok bool) {
	if len(m.Body) < headerOf(m.Type) {
		return n, false
	}
	switch m.Type {
	case unix.RTM_DELLINK, unix.RTM_DELADDR, unix.RTM_DELROUTE, unix.RTM_DELNEIGH:
		n.Gone = true
	}
	switch m.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		n.LinkName = m.Attrs(unix.SizeofIfInfomsg).Get(unix.IFLA_IFNAME).Text()
		n.Link = int(native.Uint32(m.Body[4:]))
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		n.Link = int(native.Uint32(m.Body[4:]))
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r := parseRoute(m.Body)
		n.Route, n.Replaces = &r, m.Flags&unix.NLM_F_REPLACE != 0
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		e := parseNeighbor(m.Body)
		n.Neighbor = &e
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		n.Rule = true
	case unix.RTM_NEWNETCONF:
		n.Sysctl = sysctlWritten(m)
	}
	return n, true
}

// Attributes of a netconf message, linux/netconf.h.
const (
	sizeofNetconfmsg  = 4 // padded
	netconfForwarding = 2 // NETCONFA_FORWARDING
	netconfRPFilter   = 3 // NETCONFA_RP_FILTER
	netconfProxyNeigh = 5 // NETCONFA_PROXY_NEIGH
)

// sysctlWritten reports whether somebody wrote a sysctl. For a new interface,
// such as a pod's port, the kernel reports all sysctls at once, which does not
// count.
func sysctlWritten(m nl.Message) bool {
	attrs := m.Attrs(sizeofNetconfmsg)
	written := attrs.Get(netconfForwarding) != nil || attrs.Get(netconfRPFilter) != nil
	return written && attrs.Get(netconfProxyNeigh) == nil
}

// headerOf is the length of the fixed header that comes before attributes.
func headerOf(typ uint16) int {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return unix.SizeofIfInfomsg
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return unix.SizeofIfAddrmsg
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return unix.SizeofRtMsg
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return unix.SizeofNdMsg
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return sizeofRule
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		return sizeofNetconfmsg
	case unix.RTM_NEWQDISC:
		return sizeofTcMsg
	}
	return 0
}
