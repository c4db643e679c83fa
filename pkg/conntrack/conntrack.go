// Package conntrack deletes entries of the kernel's connection tracking.
//
// The kernel asks nf_tables about the first packet of a flow only. A UDP flow lasts
// for as long as somebody sends, so its packets go to a deleted pod until its entry
// is deleted. TCP and SCTP connections end when one of their endpoints disappears, but
// their entries remain for minutes or days, and the next pod with the address would
// inherit them.
package conntrack

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// UDP describes UDP flows by their first packet and by who answers it.
type UDP struct {
	// To is the destination of the first packet. If its address is the zero Addr, the
	// destination may have any address.
	To netip.AddrPort
	// Answerer answers the flow: To itself, or the pod that the flow was led to. If its
	// port is 0, the answerer may have any port.
	Answerer netip.AddrPort
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (u UDP) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return f.Forward.Protocol == unix.IPPROTO_UDP && f.Forward.DstPort == u.To.Port() &&
		(!u.To.Addr().IsValid() || addrOf(f.Forward.DstIP) == u.To.Addr()) &&
		addrOf(f.Reverse.SrcIP) == u.Answerer.Addr() &&
		(u.Answerer.Port() == 0 || f.Reverse.SrcPort == u.Answerer.Port())
}

// endpoints are addresses whose flows end, whatever their protocol.
type endpoints map[netip.Addr]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter. The endpoints of a flow
// are who sent the first packet, and who answers it.
func (e endpoints) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return e[addrOf(f.Forward.SrcIP)] || e[addrOf(f.Reverse.SrcIP)]
}

// DeleteOf deletes all flows from and to the addresses from the network namespace of
// the calling thread. It takes as long as Delete, and next to nothing where the kernel
// tracks no connection.
func DeleteOf(addresses []netip.Addr) error {
	count, err := sysctl.Get("net/netfilter/nf_conntrack_count")
	if err != nil || count == "0" {
		return nil // without the module there is no such sysctl
	}
	for _, f := range family.All() {
		ends := endpoints{}
		for _, a := range addresses {
			if family.Of(a) == f {
				ends[a] = true
			}
		}
		if len(ends) == 0 {
			continue
		}
		if err := deleteMatching(f, []netlink.CustomConntrackFilter{ends}); err != nil {
			return fmt.Errorf("delete flows of %d addresses from the connection tracking (nf_conntrack_netlink): %w", len(ends), err)
		}
	}
	return nil
}

func addrOf(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// attempts bounds how often the entries are listed again because they changed
// meanwhile.
const attempts = 10

// Delete deletes the flows from the network namespace of the calling thread. It lists
// all entries of the flows' families. That takes 3 µs for each entry, and 11 ms for a
// table of 262,144 entries even if it is empty (nf_conntrack_max above 4 GiB of
// memory).
func Delete(flows ...UDP) error {
	for _, f := range family.All() {
		var filters []netlink.CustomConntrackFilter
		for _, u := range flows {
			if family.Of(u.Answerer.Addr()) == f {
				filters = append(filters, u)
			}
		}
		if len(filters) == 0 {
			continue
		}
		if err := deleteMatching(f, filters); err != nil {
			return fmt.Errorf("delete stale UDP flows from the connection tracking (nf_conntrack_netlink): %w", err)
		}
	}
	return nil
}

func deleteMatching(f family.Family, filters []netlink.CustomConntrackFilter) error {
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	for range attempts {
		_, err = h.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f), filters...)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return err
}
