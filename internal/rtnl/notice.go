package rtnl

import (
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// Notice is one notification. What it refers to is valid until the next one.
type Notice struct {
	// Link is the interface that a notification about a link or about one of
	// its addresses names; Route and Neighbor are what the others are about.
	Link     int
	Route    *RouteEntry
	Neighbor *NeighborEntry
	// Gone says that the object was deleted.
	Gone bool
	// Replaces says that a route took the place of another.
	Replaces bool
}

// Notices receives the kernel's notifications about links, addresses, routes,
// neighbours and forwarding entries in one network namespace.
type Notices struct{ *nl.Subscription }

// Subscribe works in the network namespace of the calling thread.
func Subscribe() (*Notices, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, err
	}
	return &Notices{s}, nil
}

// Drain calls each for all notifications that have come, and does not wait for
// more. What a notification refers to is valid only during the call. The error
// is nl.ErrLost if some are missing; it comes after all that could be read.
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

// parseNotice gives an empty one for what the groups bring besides.
func parseNotice(m nl.Message) (n Notice, ok bool) {
	if len(m.Body) < headerOf(m.Type) {
		return n, false
	}
	switch m.Type {
	case unix.RTM_DELLINK, unix.RTM_DELADDR, unix.RTM_DELROUTE, unix.RTM_DELNEIGH:
		n.Gone = true
	}
	switch m.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
		n.Link = int(native.Uint32(m.Body[4:])) // in both headers
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r := parseRoute(m.Body)
		n.Route, n.Replaces = &r, m.Flags&unix.NLM_F_REPLACE != 0
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		e := parseNeighbor(m.Body)
		n.Neighbor = &e
	}
	return n, true
}

// headerOf is the length of what attributes follow.
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
	}
	return 0
}
