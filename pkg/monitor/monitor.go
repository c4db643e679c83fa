package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// groups are the kinds of change that concern us (linux/rtnetlink.h).
var groups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// podPort is how the names of pods' ports begin. They come and go all the time
// and nothing that is reconciled depends on them.
const podPort = "veth"

// Watch calls changed for changes of links, addresses, routes, neighbours and
// forwarding in the network namespace of the calling thread, until ctx ends;
// and once as soon as it watches, since nobody saw what changed before. Changes
// that are everyday traffic are left out: pods' ports, and neighbours on
// interfaces other than the one that tunnel names.
func Watch(ctx context.Context, tunnel func() int, changed func()) error {
	socket, err := subscribe()
	if err != nil {
		return err
	}
	// Closing is what ends the reading.
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer stop()
	changed()
	buf := make([]byte, 1<<16)
	for {
		n, err := socket.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changed() // some were lost, which says enough
		case err != nil:
			return fmt.Errorf("read kernel notifications: %w", err)
		case concerns(buf[:n], tunnel()):
			changed()
		}
	}
}

func subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	// Non-blocking, so that the runtime's poller serves it.
	socket := os.NewFile(uintptr(fd), "route netlink notifications")
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range groups {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g)))
	}
	if err != nil {
		_ = socket.Close()
		return nil, fmt.Errorf("subscribe to route netlink notifications: %w", err)
	}
	return socket, nil
}

// concerns tells whether any of the messages is of interest.
func concerns(in []byte, tunnel int) bool {
	for len(in) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(in))
		if size < unix.NLMSG_HDRLEN || size > len(in) {
			return true // it can't be understood: rather look
		}
		typ := binary.NativeEndian.Uint16(in[4:])
		if messageConcerns(typ, in[unix.NLMSG_HDRLEN:size], tunnel) {
			return true
		}
		in = in[min(aligned(size), len(in)):]
	}
	return false
}

func messageConcerns(typ uint16, payload []byte, tunnel int) bool {
	switch typ {
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		// struct ndmsg: family, three bytes of padding, interface index
		return len(payload) >= 8 && int(binary.NativeEndian.Uint32(payload[4:])) == tunnel
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return !strings.HasPrefix(linkName(payload), podPort)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		// Those of the local table are the kernel's own, and every pod's port
		// brings one. (struct rtmsg: the table is its fifth byte)
		return len(payload) < unix.SizeofRtMsg || payload[4] != unix.RT_TABLE_LOCAL
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		return forwardingChanged(typ, payload)
	}
	return true
}

// Attributes of a netconf message, linux/netconf.h.
const (
	netconfHeader     = 4 // struct netconfmsg, padded
	netconfForwarding = 2 // NETCONFA_FORWARDING
	netconfProxyNeigh = 5 // NETCONFA_PROXY_NEIGH
)

// forwardingChanged tells a switch that somebody turned from an interface that
// comes or goes, as pods' ports do: that one tells all its settings, or none.
func forwardingChanged(typ uint16, payload []byte) bool {
	if typ == unix.RTM_DELNETCONF {
		return false
	}
	_, forwarding := attribute(payload, netconfHeader, netconfForwarding)
	_, others := attribute(payload, netconfHeader, netconfProxyNeigh)
	return forwarding && !others
}

func linkName(payload []byte) string {
	name, _ := attribute(payload, unix.SizeofIfInfomsg, unix.IFLA_IFNAME)
	return unix.ByteSliceToString(name)
}

// attribute finds an attribute (struct rtattr) after a header. The library's
// parser panics on what the kernel would never send.
func attribute(payload []byte, header int, typ uint16) ([]byte, bool) {
	attrs := payload[min(header, len(payload)):]
	for len(attrs) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < unix.SizeofRtAttr || size > len(attrs) {
			break
		}
		if binary.NativeEndian.Uint16(attrs[2:]) == typ {
			return attrs[unix.SizeofRtAttr:size], true
		}
		attrs = attrs[min(aligned(size), len(attrs)):]
	}
	return nil, false
}

func aligned(size int) int { return (size + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
