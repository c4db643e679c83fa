package monitor

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// routeGroups are the kinds of change that concern us (linux/rtnetlink.h).
var routeGroups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// podPort is how the names of pods' ports begin.
const podPort = "veth"

func routeConcerns(typ uint16, payload []byte, tunnel int) Change {
	switch typ {
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		// struct ndmsg: family, three bytes of padding, interface index
		return networkIf(len(payload) >= 8 && int(binary.NativeEndian.Uint32(payload[4:])) == tunnel)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if strings.HasPrefix(linkName(payload), podPort) {
			return Pods
		}
		return Network | Pods // the bridge may have lost its ports
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return Network | Pods // the bridge may have another subnet
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		// Those of the local table are the kernel's own, and every pod's port
		// brings one. (struct rtmsg: the table is its fifth byte)
		return networkIf(len(payload) < unix.SizeofRtMsg || payload[4] != unix.RT_TABLE_LOCAL)
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
