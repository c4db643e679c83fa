package monitor

import (
	"context"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/rtnl"
)

// podPort is how the names of pods' ports begin.
const podPort = "veth"

// Watch calls changed when links, addresses, routes, rules or forwarding change in
// the network namespace of the calling thread, until ctx ends. It also calls changed
// once at the beginning, since nobody saw what changed before, and when
// notifications were lost.
//
// Watch ignores routes whose protocol (RTPROT_*) is own. The part that makes these
// routes watches them itself, because only that part knows which changes it made.
func Watch(ctx context.Context, own func(protocol uint8) bool, changed func(Change)) error {
	notices, err := rtnl.Subscribe(
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return err
	}
	concerns := func() (c Change, err error) {
		err = notices.Drain(func(n rtnl.Notice) { c |= noticeConcerns(n, own) })
		return c, err
	}
	return follow(ctx, subscription{notices.Subscription, concerns}, changed)
}

func noticeConcerns(n rtnl.Notice, own func(protocol uint8) bool) Change {
	switch {
	case strings.HasPrefix(n.LinkName, podPort):
		return Pods
	case n.Link != 0:
		return Network | Pods // the bridge may have lost its ports, or have another subnet
	case n.Route != nil && n.Route.Table != unix.RT_TABLE_LOCAL && !own(n.Route.Protocol):
		// The kernel itself keeps the local table, and each pod's port adds a route
		// to it.
		return Network
	case n.Sysctl, n.Rule:
		return Network
	}
	return 0
}
