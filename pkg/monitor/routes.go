package monitor

import (
	"strings"

	"golang.org/x/sys/unix"
)

// routeGroups are the kinds of change that concern us (linux/rtnetlink.h).
var routeGroups = []uint{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// podPort is how the names of pods' ports begin.
const podPort = "veth"

func routeConcerns(typ uint16, payload []byte, own func(protocol uint8) bool) Change {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if strings.HasPrefix(linkName(payload), podPort) {
			return Pods
		}
		return Network | Pods // the bridge may have lost its ports
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return Network | Pods // the bridge may have another subnet
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		// Those of the local table are the kernel's own, and every pod's port
		// brings one. (struct rtmsg: table and protocol are bytes 4 and 5)
		return networkIf(len(payload) < unix.SizeofRtMsg || payload[4] != unix.RT_TABLE_LOCAL && !own(payload[5]))
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		return networkIf(switchTurned(typ, payload))
	}
	return Network
}

func networkIf(concerned bool) Change {
	if concerned {
		return Network
	}
	return 0
}

// Attributes of a netconf message, linux/netconf.h.
const (
	netconfHeader     = 4 // struct netconfmsg, padded
	netconfForwarding = 2 // NETCONFA_FORWARDING
	netconfRPFilter   = 3 // NETCONFA_RP_FILTER
	netconfProxyNeigh = 5 // NETCONFA_PROXY_NEIGH
)

// switchTurned tells a switch that somebody turned from an interface that comes
// or goes, as pods' ports do: that one tells all its settings, or none.
func switchTurned(typ uint16, payload []byte) bool {
	if typ == unix.RTM_DELNETCONF {
		return false
	}
	_, forwarding := attribute(payload, netconfHeader, netconfForwarding)
	_, filter := attribute(payload, netconfHeader, netconfRPFilter)
	_, others := attribute(payload, netconfHeader, netconfProxyNeigh)
	return (forwarding || filter) && !others
}

func linkName(payload []byte) string {
	name, _ := attribute(payload, unix.SizeofIfInfomsg, unix.IFLA_IFNAME)
	return unix.ByteSliceToString(name)
}
