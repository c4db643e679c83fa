package pods

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/attachment"
	"github.com/overlay-cni/overlay-cni/pkg/bridge"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/veth"
)

// ErrUnrecorded says that there are pods of which no file tells. They go on working.
var ErrUnrecorded = errors.New("no record tells of pods")

// InUse returns who has which address now: attachments by their records, and the
// interfaces of pods of which no record tells, by what the kernel says. Such a pod's
// record was removed, or another network made the pod. Of other networks' pods only
// the addresses for which ours returns true count; if ours is nil, none of them.
func InUse(b *bridge.Kernel, s *attachment.Store, ours func(netip.Addr) bool) (map[netip.Addr]attachment.User, error) {
	// Records come last: ADD makes the attachment's file before the veth pair, so a
	// pair without a file is lost and not new.
	pairs, err := veth.On(b).Pairs()
	if err != nil {
		return nil, err
	}
	entries, err := s.List()
	if err != nil {
		return nil, err
	}
	users := map[netip.Addr]attachment.User{}
	keys := map[string]attachment.Key{}
	for _, e := range entries {
		keys[e.Key.HostName()] = e.Key
		for _, a := range e.Record.Addresses {
			users[a] = attachment.User{Key: e.Key, Link: e.Key.HostName()}
		}
		if len(e.Record.Addresses) > 0 {
			delete(pairs, e.Key.HostName())
		}
	}
	var errs []error
	for name, pair := range pairs {
		others := attachment.DevicesOf(name) == nil
		if others && ours == nil {
			continue
		}
		addrs, err := veth.On(b).AddressesOf(pair)
		errs = append(errs, err)
		for _, a := range addrs {
			if _, known := users[a]; !known && (!others || ours(a)) {
				users[a] = attachment.User{Key: keys[name], Link: name}
			}
		}
	}
	return users, errors.Join(errs...)
}

// syncInUse makes the reservations agree with what is in use. It reserves again what
// somebody removed, and frees what was held for an interface that is gone. It
// returns what it changed, and what is in use. The error names the addresses that
// two pods have.
func (h *Host) syncInUse(s bridge.Spec) ([]string, map[netip.Addr]attachment.User, error) {
	want, err := InUse(h.bridge, h.store, func(a netip.Addr) bool { return within(s, a) })
	if err != nil {
		return nil, nil, err
	}
	have, err := h.store.Users()
	if err != nil {
		return nil, nil, err
	}
	var changes []string
	var errs []error
	for addr, user := range want {
		if !have[addr].Is(user) {
			change, err := h.reserve(addr, user)
			changes, errs = append(changes, change...), append(errs, err)
		}
	}
	freed, err := endHolds(h.store, want)
	slices.Sort(changes)
	return append(changes, freed...), want, errors.Join(append(errs, err)...)
}

// reserve reserves an address for its user.
func (h *Host) reserve(addr netip.Addr, u attachment.User) ([]string, error) {
	if there, err := h.bridge.Exists(u.Link); !there || err != nil {
		return nil, err // deleted meanwhile, or an attachment that will be swept
	}
	if u.Key != "" {
		restored, err := h.store.Restore(u.Key, addr)
		if !restored {
			return nil, err
		}
		return []string{fmt.Sprintf("reserved %s again for %s", addr, u)}, err
	}
	err := h.store.Hold(addr, u.Link)
	if errors.Is(err, ipam.ErrTaken) {
		return nil, fmt.Errorf("%s is in use behind interface %s, but %s has it too: delete one of the two pods", addr, u.Link, h.store.Holder(addr))
	}
	if err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("held %s, which is in use behind interface %s", addr, u.Link)}, nil
}

// endHolds frees the addresses that are held for interfaces, but not in use any more.
func endHolds(s *attachment.Store, want map[netip.Addr]attachment.User) ([]string, error) {
	have, err := s.Users()
	errs := []error{err}
	var changes []string
	for addr, u := range have {
		if _, inUse := want[addr]; inUse || u.Key != "" {
			continue
		}
		if err := closePortsTo(addr); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, s.EndHold(addr, u.Link))
		changes = append(changes, fmt.Sprintf("freed %s, which was in use behind interface %s", addr, u.Link))
	}
	slices.Sort(changes)
	return changes, errors.Join(errs...)
}

// unrecorded returns an error that names the addresses of pods of which no file
// tells.
func unrecorded(users map[netip.Addr]attachment.User) error {
	var held []string
	for addr, u := range users {
		if u.Key == "" {
			held = append(held, fmt.Sprintf("%s behind %s", addr, u.Link))
		}
	}
	if len(held) == 0 {
		return nil
	}
	slices.Sort(held)
	const shown = 5
	more := ""
	if len(held) > shown {
		more = fmt.Sprintf(" and %d more", len(held)-shown)
	}
	return fmt.Errorf("%w that have %d addresses of this node, because somebody removed the record or another network made the pod. No other pod gets these addresses. Recreate the pods: %s%s",
		ErrUnrecorded, len(held), strings.Join(held[:min(shown, len(held))], ", "), more)
}
