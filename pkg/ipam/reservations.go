package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/nofollow"
)

const (
	addressesDir = "addresses"
	cursorsDir   = "cursors"
)

var (
	// ErrExhausted is for a range set in which every address is reserved.
	ErrExhausted = errors.New("no address left")
	// ErrTaken is for an address that another owner has, see TakenError.
	ErrTaken = errors.New("address is taken")
	// ErrNotInRange is for an address that was asked for and can't be given.
	ErrNotInRange = errors.New("address is in no range")
)

// TakenError is an ErrTaken that says which address is taken.
type TakenError struct{ Addr netip.Addr }

func (e *TakenError) Error() string { return fmt.Sprintf("%s: %s", ErrTaken, e.Addr) }
func (e *TakenError) Unwrap() error { return ErrTaken }

// Owner is whoever has a reservation: the path of the owner's file, relative to
// the folder of the reservations.
type Owner string

// Reservations are those of one network. The methods may be called by any number
// of processes at once.
type Reservations struct {
	dir  string
	used func() (map[netip.Addr]Owner, error)
}

// Open returns the reservations in a network's state directory, which need not
// exist yet.
func Open(stateDir string) *Reservations {
	return &Reservations{dir: stateDir, used: func() (map[netip.Addr]Owner, error) { return nil, nil }}
}

// WhenLost sets where reservations come from if their folder is missing: used
// returns the addresses that are in use all the same. The folder appears with
// their reservations in it.
func (r *Reservations) WhenLost(used func() (map[netip.Addr]Owner, error)) { r.used = used }

// table is the open folder of the reservations.
type table struct{ nofollow.Folder }

// Path returns the path of the folder of the reservations.
func (r *Reservations) Path() string { return filepath.Join(r.dir, addressesDir) }

// open opens the folder. It nearly always exists.
func (r *Reservations) open() (table, error) {
	f, err := nofollow.Open(r.Path())
	if errors.Is(err, fs.ErrNotExist) {
		if err := r.restore(); err != nil {
			return table{}, err
		}
		f, err = nofollow.Open(r.Path())
	}
	return table{f}, err
}

// openExisting is open, but makes nothing. The error is fs.ErrNotExist if there
// are no reservations.
func (r *Reservations) openExisting() (table, error) {
	f, err := nofollow.Open(r.Path())
	return table{f}, err
}

// Reserve takes one address of each range set, in the order of the sets. If
// asked has an address of the set, Reserve takes that one, otherwise the next
// free one. The error is ErrExhausted if every address of a set is taken, and
// ErrNotInRange or a *TakenError if Reserve can't give an address of asked. With
// an error, Reserve returns the addresses that it had already reserved.
func (r *Reservations) Reserve(owner Owner, sets []RangeSet, asked []netip.Addr) ([]netip.Addr, error) {
	fixed, err := assign(sets, asked)
	if err != nil {
		return nil, err
	}
	t, err := r.open()
	if err != nil {
		return nil, err
	}
	defer t.Close()
	var reserved []netip.Addr
	for i, set := range sets {
		addr := fixed[i]
		if addr.IsValid() {
			err = t.take(addr, owner)
		} else {
			addr, err = r.next(t, set, owner)
		}
		if err != nil {
			return reserved, err
		}
		reserved = append(reserved, addr)
	}
	return reserved, nil
}

// assign finds the set of each address that was asked for: the result has one
// entry a set, the zero Addr for "any".
func assign(sets []RangeSet, asked []netip.Addr) ([]netip.Addr, error) {
	fixed := make([]netip.Addr, len(sets))
	for _, addr := range asked {
		i := slices.IndexFunc(sets, func(s RangeSet) bool {
			_, ok := s.Find(addr)
			return ok
		})
		switch {
		case i < 0:
			return nil, fmt.Errorf("%w: %s was asked for, but pod addresses come from %s, except gateways and excluded addresses", ErrNotInRange, addr, join(sets))
		case fixed[i].IsValid():
			return nil, fmt.Errorf("%w: both %s and %s were asked for, but a pod gets only one address of %s", ErrNotInRange, fixed[i], addr, sets[i])
		}
		fixed[i] = addr
	}
	return fixed, nil
}

func join(sets []RangeSet) string {
	var texts []string
	for _, s := range sets {
		texts = append(texts, s.String())
	}
	return strings.Join(texts, " and ")
}

// take reserves one address.
func (t table) take(a netip.Addr, owner Owner) error {
	err := t.Symlink(string(owner), a.String())
	if errors.Is(err, fs.ErrExist) {
		return &TakenError{a}
	}
	return err
}

// next reserves the free address that follows the one given last.
func (r *Reservations) next(t table, set RangeSet, owner Owner) (netip.Addr, error) {
	c, err := r.openCursor(set)
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.close()
	addr, err := t.search(set, set.next(c.read()), owner)
	if err == nil {
		c.write(addr)
	}
	return addr, err
}

// search reserves the first free address from first on. After the last address
// of the set comes the first.
func (t table) search(set RangeSet, first netip.Addr, owner Owner) (netip.Addr, error) {
	err := t.take(first, owner)
	if !errors.Is(err, ErrTaken) {
		return first, err
	}
	// Trying each address would cost a system call for every pod; one listing shows
	// all that are taken.
	taken, err := t.list()
	if err != nil {
		return netip.Addr{}, err
	}
	taken[first] = true
	for a := set.next(first); a != first; a = set.next(a) {
		if taken[a] {
			continue
		}
		if err := t.take(a, owner); !errors.Is(err, ErrTaken) {
			return a, err
		}
		taken[a] = true // another process was faster
	}
	return netip.Addr{}, t.exhausted(set, taken)
}

// Release gives an address back if one of the owners has it. The caller holds the
// owner's lock, so nobody else removes and takes the address between the look
// and the removal.
func (r *Reservations) Release(a netip.Addr, owners ...Owner) error {
	t, err := r.openExisting()
	if err != nil {
		return unlessAbsent(err)
	}
	defer t.Close()
	has, err := t.ownerOf(a)
	if err != nil || !slices.Contains(owners, has) {
		return unlessAbsent(err)
	}
	return unlessAbsent(t.Remove(a.String()))
}

// Give makes an owner the owner of an address, whoever had it.
func (r *Reservations) Give(a netip.Addr, to Owner) error {
	t, err := r.open()
	if err != nil {
		return err
	}
	defer t.Close()
	// A rename replaces the reservation in one step: the address is never free.
	next := "." + a.String() + ".next"
	if err := unlessAbsent(t.Remove(next)); err != nil {
		return err
	}
	if err := t.Symlink(string(to), next); err != nil {
		return err
	}
	return t.Rename(next, a.String())
}

// Take reserves an address that is in use already. The error is ErrTaken if it has
// an owner.
func (r *Reservations) Take(a netip.Addr, owner Owner) error {
	t, err := r.open()
	if err != nil {
		return err
	}
	defer t.Close()
	return t.take(a, owner)
}

// OwnerOf returns the owner of an address. The error is fs.ErrNotExist if the
// address is free.
func (r *Reservations) OwnerOf(a netip.Addr) (Owner, error) {
	t, err := r.openExisting()
	if err != nil {
		return "", err
	}
	defer t.Close()
	return t.ownerOf(a)
}

// ownerOf reads the link. Nobody follows it.
func (t table) ownerOf(a netip.Addr) (Owner, error) {
	target, err := t.Readlink(a.String())
	return Owner(target), err
}

// All returns the owner of each address that is reserved.
func (r *Reservations) All() (map[netip.Addr]Owner, error) {
	all := map[netip.Addr]Owner{}
	t, err := r.openExisting()
	if err != nil {
		return all, unlessAbsent(err)
	}
	defer t.Close()
	taken, err := t.list()
	for a := range taken {
		if owner, err := t.ownerOf(a); err == nil { // else it was released by now
			all[a] = owner
		}
	}
	return all, err
}

// OwnedBy lists the addresses of the owners. It reads all reservations, so it is
// for the rare owner that has no record of its addresses.
func (r *Reservations) OwnedBy(owners ...Owner) ([]netip.Addr, error) {
	all, err := r.All()
	var owned []netip.Addr
	for a, owner := range all {
		if slices.Contains(owners, owner) {
			owned = append(owned, a)
		}
	}
	return owned, err
}

func unlessAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Exist reports whether there is a folder with reservations, even an empty one.
func (r *Reservations) Exist() bool {
	t, err := r.openExisting()
	if err != nil {
		return false
	}
	t.Close()
	return true
}

// CheckFree returns nil if every set has an address that can be given, else an
// error that is ErrExhausted.
func (r *Reservations) CheckFree(sets []RangeSet) error {
	t, err := r.openExisting()
	if err != nil {
		return unlessAbsent(err)
	}
	defer t.Close()
	taken, err := t.list()
	if err != nil {
		return err
	}
	for _, set := range sets {
		if uint64(inUse(set, taken)) >= set.size() {
			return t.exhausted(set, taken)
		}
	}
	return nil
}

// RemoveAll forgets all reservations. It is for a host that leaves the network,
// where no plugin runs any more.
func (r *Reservations) RemoveAll() error {
	return errors.Join(os.RemoveAll(r.Path()), os.RemoveAll(filepath.Join(r.dir, cursorsDir)))
}

// list returns the addresses that are reserved.
func (t table) list() (map[netip.Addr]bool, error) {
	names, err := t.Names()
	if err != nil {
		return nil, err
	}
	taken := make(map[netip.Addr]bool, len(names))
	for _, name := range names {
		if a, err := netip.ParseAddr(name); err == nil {
			taken[a] = true
		}
	}
	return taken, nil
}

func inUse(set RangeSet, taken map[netip.Addr]bool) int {
	n := 0
	for a := range taken {
		if _, ok := set.Find(a); ok {
			n++
		}
	}
	return n
}

func (t table) exhausted(set RangeSet, taken map[netip.Addr]bool) error {
	return fmt.Errorf("%w in %s: %d of %d are in use (\"ls -l %s\" shows by whom): delete pods, or give the node a larger subnet",
		ErrExhausted, set, inUse(set, taken), set.size(), t.Path(""))
}
