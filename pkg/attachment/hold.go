package attachment

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

// An address is reserved by an attachment: the reservation names the attachment's
// file. Or it is held for an interface of the host that shows that the address is in
// use, but of which no file tells: the reservation names the interface.

// heldFolder is a folder that doesn't exist: reservations are never followed.
const heldFolder = "in-use"

// owner is the name of the attachment in its reservations.
func (k Key) owner() ipam.Owner {
	return ipam.Owner(filepath.Join("..", folder, k.file()))
}

// owners are the names in reservations that belong to the attachment.
func (k Key) owners() []ipam.Owner { return []ipam.Owner{k.owner(), heldOwner(k.HostName())} }

func (k Key) owns(o ipam.Owner) bool { return o == k.owner() || o == heldOwner(k.HostName()) }

// keyOf is the attachment that has a reservation: the inverse of owner.
func keyOf(o ipam.Owner) Key { return Key(strings.TrimSuffix(filepath.Base(string(o)), ending)) }

func heldOwner(link string) ipam.Owner { return ipam.Owner(filepath.Join("..", heldFolder, link)) }

// heldFor returns the interface for which an address is held. It is false if the
// owner is an attachment.
func heldFor(o ipam.Owner) (link string, held bool) {
	dir, link := filepath.Split(string(o))
	return link, filepath.Base(dir) == heldFolder
}

// User is who uses an address: an attachment that has a file, or else an interface
// of the host.
type User struct {
	Key  Key
	Link string
}

func (u User) owner() ipam.Owner {
	if u.Key != "" {
		return u.Key.owner()
	}
	return heldOwner(u.Link)
}

// Is reports whether the reservation of u is as good as one of other: of the same
// attachment, or of one that has no file any more, but still its interface.
func (u User) Is(other User) bool {
	if u.Key != "" && other.Key == "" {
		return u.Key.HostName() == other.Link
	}
	return u.Key == other.Key && (u.Key != "" || u.Link == other.Link)
}

// String names the user, for messages.
func (u User) String() string {
	if u.Key != "" {
		return "attachment " + string(u.Key)
	}
	return "interface " + u.Link
}

// Users returns the user of each address that is reserved, by the reservations.
func (s *Store) Users() (map[netip.Addr]User, error) {
	all, err := s.addresses.All()
	users := make(map[netip.Addr]User, len(all))
	for addr, owner := range all {
		if link, held := heldFor(owner); held {
			users[addr] = User{Link: link}
		} else {
			users[addr] = User{Key: keyOf(owner)}
		}
	}
	return users, err
}

// WhenLost sets who has which address, for the case that somebody removed the
// folder of the reservations, see ipam.Reservations.WhenLost.
func (s *Store) WhenLost(find func() (map[netip.Addr]User, error)) {
	s.addresses.WhenLost(func() (map[netip.Addr]ipam.Owner, error) {
		users, err := find()
		owners := make(map[netip.Addr]ipam.Owner, len(users))
		for addr, u := range users {
			owners[addr] = u.owner()
		}
		return owners, err
	})
}

// Hold reserves an address that an interface shows in use. The error is
// ipam.ErrTaken if the address has an owner.
func (s *Store) Hold(addr netip.Addr, link string) error {
	return s.addresses.Take(addr, heldOwner(link))
}

// EndHold releases an address that is held for an interface. An attachment's
// reservation stays.
func (s *Store) EndHold(addr netip.Addr, link string) error {
	return s.addresses.Release(addr, heldOwner(link))
}

// Restore reserves an address for the attachment whose record tells of it. It
// replaces a hold. It does nothing while an ADD or DEL works on the attachment, or
// if the record is gone by now. It returns whether it did anything. The error is
// ipam.ErrTaken if another attachment has the address.
func (s *Store) Restore(k Key, addr netip.Addr) (bool, error) {
	a, err := s.TryLock(k)
	if errors.Is(err, ErrBusy) || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = a.Close() }()
	if r, found, err := a.Record(); !found || err != nil || !r.Holds(addr) {
		return false, nil
	}
	has, err := s.addresses.OwnerOf(addr)
	_, held := heldFor(has)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, s.addresses.Take(addr, k.owner())
	case err != nil:
		return false, err
	case held:
		return true, s.addresses.Give(addr, k.owner())
	case has != k.owner():
		return false, fmt.Errorf("%w: %s is an address of both %s and %s: delete one of the two pods", ipam.ErrTaken, addr, s.Holder(addr), k)
	}
	return false, nil
}
