package pods

import (
	"net/netip"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/conntrack"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

// flows ends what connection tracking remembers of addresses that were given back.
// Otherwise answers to an earlier pod, such as a stream from outside, would go to the
// next pod with the address. Only addresses that were seen reserved count: others in
// the node's subnets may belong to somebody else.
type flows struct {
	reserved map[netip.Addr]ipam.Owner // at the last look
	gone     map[netip.Addr]bool       // whose flows may be left
	next     time.Time                 // when gone may be worked on again
}

// share bounds what the search for flows may take of a CPU: the kernel lists all flows
// of the host.
const share = 20 // one part of so many

// end does nothing for an address that has a new owner, or that somebody uses. It
// leaves addresses to a later round if the last search was expensive and not long ago.
func (f *flows) end(r *ipam.Reservations, users map[netip.Addr]attachment.User) error {
	now, err := r.All()
	if err != nil {
		return err
	}
	if f.gone == nil {
		f.gone = map[netip.Addr]bool{}
	}
	for a := range f.reserved {
		f.gone[a] = true
	}
	for a := range now {
		delete(f.gone, a)
	}
	for a := range users {
		delete(f.gone, a)
	}
	f.reserved = now
	begun := time.Now()
	if len(f.gone) == 0 || begun.Before(f.next) {
		return nil
	}
	var addresses []netip.Addr
	for a := range f.gone {
		addresses = append(addresses, a)
	}
	err = conntrack.DeleteOf(addresses)
	f.next = time.Now().Add(share * time.Since(begun))
	if err == nil {
		clear(f.gone)
	}
	return err
}
