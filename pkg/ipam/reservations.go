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
type Reservations struct{ dir string }

// Open returns the reservations in a network's state directory, which need not
// exist yet.
func Open(stateDir string) *Reservations { return &Reservations{dir: stateDir} }

func (r *Reservations) path(a netip.Addr) string {
	return filepath.Join(r.dir, addressesDir, a.String())
}

// withDirs runs op. If op fails because the directories are missing, withDirs
// makes them and runs op again. The directories nearly always exist, so checking
// for them first would only slow ADD down.
func (r *Reservations) withDirs(op func() error) error {
	err := op()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range []string{addressesDir, cursorsDir} {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o755); err != nil {
			return err
		}
	}
	return op()
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
	var reserved []netip.Addr
	for i, set := range sets {
		addr := fixed[i]
		if addr.IsValid() {
			err = r.withDirs(func() error { return r.take(addr, owner) })
		} else {
			addr, err = r.next(set, owner)
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
func (r *Reservations) take(a netip.Addr, owner Owner) error {
	err := os.Symlink(string(owner), r.path(a))
	if errors.Is(err, fs.ErrExist) {
		return &TakenError{a}
	}
	return err
}

// next reserves the free address that follows the one given last.
func (r *Reservations) next(set RangeSet, owner Owner) (netip.Addr, error) {
	c := r.openCursor(set)
	defer c.close()
	addr, err := r.search(set, set.next(c.read()), owner)
	if err == nil {
		c.write(addr)
	}
	return addr, err
}

// search reserves the first free address from first on. After the last address
// of the set comes the first.
func (r *Reservations) search(set RangeSet, first netip.Addr, owner Owner) (netip.Addr, error) {
	err := r.withDirs(func() error { return r.take(first, owner) })
	if !errors.Is(err, ErrTaken) {
		return first, err
	}
	// Trying each address would cost a system call for every pod; one listing shows
	// all that are taken.
	taken, err := r.list()
	if err != nil {
		return netip.Addr{}, err
	}
	taken[first] = true
	for a := set.next(first); a != first; a = set.next(a) {
		if taken[a] {
			continue
		}
		if err := r.take(a, owner); !errors.Is(err, ErrTaken) {
			return a, err
		}
		taken[a] = true // another process was faster
	}
	return netip.Addr{}, r.exhausted(set, taken)
}

// Release gives an address back if the owner has it. The caller holds the
// owner's lock, so nobody else removes and takes the address between the look
// and the removal.
func (r *Reservations) Release(a netip.Addr, owner Owner) error {
	has, err := r.OwnerOf(a)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && has != owner) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Remove(r.path(a)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// OwnerOf returns the owner of an address. The error is fs.ErrNotExist if the
// address is free.
func (r *Reservations) OwnerOf(a netip.Addr) (Owner, error) {
	target, err := os.Readlink(r.path(a))
	return Owner(target), err
}

// OwnedBy lists the addresses of an owner. It reads all reservations, so it is
// for the rare owner that has no record of its addresses.
func (r *Reservations) OwnedBy(owner Owner) ([]netip.Addr, error) {
	taken, err := r.list()
	if err != nil {
		return nil, err
	}
	var owned []netip.Addr
	for a := range taken {
		if has, err := r.OwnerOf(a); err == nil && has == owner {
			owned = append(owned, a)
		}
	}
	return owned, nil
}

// Lost returns the reservations that belong to nobody, because somebody removed
// the owner's file.
func (r *Reservations) Lost() (map[netip.Addr]Owner, error) {
	taken, err := r.list()
	if err != nil {
		return nil, err
	}
	lost := map[netip.Addr]Owner{}
	for a := range taken {
		if _, err := os.Stat(r.path(a)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if owner, err := r.OwnerOf(a); err == nil { // else it was released by now
			lost[a] = owner
		}
	}
	return lost, nil
}

// CheckFree returns nil if every set has an address that can be given, else an
// error that is ErrExhausted.
func (r *Reservations) CheckFree(sets []RangeSet) error {
	taken, err := r.list()
	if err != nil {
		return err
	}
	for _, set := range sets {
		if uint64(inUse(set, taken)) >= set.size() {
			return r.exhausted(set, taken)
		}
	}
	return nil
}

// RemoveAll forgets all reservations. It is for a host that leaves the network,
// where no plugin runs any more.
func (r *Reservations) RemoveAll() error {
	return errors.Join(os.RemoveAll(filepath.Join(r.dir, addressesDir)), os.RemoveAll(filepath.Join(r.dir, cursorsDir)))
}

// list returns the addresses that are reserved.
func (r *Reservations) list() (map[netip.Addr]bool, error) {
	d, err := os.Open(filepath.Join(r.dir, addressesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return map[netip.Addr]bool{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
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

func (r *Reservations) exhausted(set RangeSet, taken map[netip.Addr]bool) error {
	return fmt.Errorf("%w in %s: %d of %d are in use (\"ls -l %s\" shows by whom): delete pods, or give the node a larger subnet",
		ErrExhausted, set, inUse(set, taken), set.size(), filepath.Join(r.dir, addressesDir))
}
