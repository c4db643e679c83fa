package ipam

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	addressesDir   = "addresses"
	attachmentsDir = "attachments"
	cursorsDir     = "cursors"
)

// ErrExhausted is for a range set in which every address is taken.
var ErrExhausted = errors.New("no address left")

// ErrTaken is for an address that somebody else has.
var ErrTaken = errors.New("address is taken")

// Store is the run directory. Its methods may be called by any number of
// processes at once.
type Store struct {
	dir      string
	patience time.Duration // with a lock that another process has
}

// Open returns the store in a run directory, which need not exist yet.
func Open(dir string) *Store { return &Store{dir: dir, patience: lockPatience} }

func (s *Store) addressPath(a netip.Addr) string {
	return filepath.Join(s.dir, addressesDir, a.String())
}

func (s *Store) attachmentPath(k Key) string {
	return filepath.Join(s.dir, attachmentsDir, k.file())
}

// makeDirs makes the directories. The way of ADD doesn't ask whether they are
// there: it calls this when an operation found that they aren't.
func (s *Store) makeDirs() error {
	for _, d := range []string{addressesDir, attachmentsDir, cursorsDir} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// openFile is os.OpenFile for what is known to be a regular file: os.OpenFile
// would offer it to the poller first, which takes nine system calls.
func openFile(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// withDirs runs op, and once more with the directories made if it failed for
// their absence.
func (s *Store) withDirs(op func() error) error {
	err := op()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.makeDirs(); err != nil {
		return err
	}
	return op()
}

// take reserves one address for an attachment.
func (s *Store) take(a netip.Addr, k Key) error {
	err := os.Symlink(filepath.Join("..", attachmentsDir, k.file()), s.addressPath(a))
	if errors.Is(err, fs.ErrExist) {
		return ErrTaken
	}
	return err
}

// holder is the attachment that has an address.
func (s *Store) holder(a netip.Addr) (Key, error) {
	target, err := os.Readlink(s.addressPath(a))
	return Key(strings.TrimSuffix(filepath.Base(target), ending)), err
}

// reserved lists the addresses that are taken.
func (s *Store) reserved() (map[netip.Addr]bool, error) {
	d, err := os.Open(filepath.Join(s.dir, addressesDir))
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

// HeldBy lists the addresses that point to an attachment. It looks at all of
// them: it is for the rare case that no record tells.
func (s *Store) HeldBy(k Key) ([]netip.Addr, error) {
	taken, err := s.reserved()
	if err != nil {
		return nil, err
	}
	var held []netip.Addr
	for a := range taken {
		if holder, err := s.holder(a); err == nil && holder == k {
			held = append(held, a)
		}
	}
	return held, nil
}

// free gives an address back if the attachment has it. The attachment's lock
// keeps anybody else from removing and taking it between look and removal.
func (s *Store) free(a netip.Addr, k Key) error {
	holder, err := s.holder(a)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && holder != k) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Remove(s.addressPath(a)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// reserve takes the address that follows the last one given.
func (s *Store) reserve(set RangeSet, k Key) (netip.Addr, error) {
	c := s.openCursor(set)
	defer c.close()
	addr, err := s.search(set, set.next(c.read()), k)
	if err == nil {
		c.write(addr)
	}
	return addr, err
}

// search takes the first free address from first on, round the set.
func (s *Store) search(set RangeSet, first netip.Addr, k Key) (netip.Addr, error) {
	err := s.withDirs(func() error { return s.take(first, k) })
	if !errors.Is(err, ErrTaken) {
		return first, err
	}
	// Asking the kernel about each address would cost a call for every pod
	// that there is; one listing tells about all.
	taken, err := s.reserved()
	if err != nil {
		return netip.Addr{}, err
	}
	taken[first] = true
	for a := set.next(first); a != first; a = set.next(a) {
		if taken[a] {
			continue
		}
		if err := s.take(a, k); !errors.Is(err, ErrTaken) {
			return a, err
		}
		taken[a] = true // by somebody who was faster
	}
	return netip.Addr{}, s.exhausted(set, taken)
}

// fixed takes one address that was asked for.
func (s *Store) fixed(a netip.Addr, k Key) error {
	err := s.withDirs(func() error { return s.take(a, k) })
	if !errors.Is(err, ErrTaken) {
		return err
	}
	return fmt.Errorf("%w: %s is reserved by %s", ErrTaken, a, s.Holder(a))
}

// Free returns nil if every set has an address that can be given, else an
// error that is ErrExhausted.
func (s *Store) Free(sets []RangeSet) error {
	taken, err := s.reserved()
	if err != nil {
		return err
	}
	for _, set := range sets {
		if uint64(inUse(set, taken)) >= set.size() {
			return s.exhausted(set, taken)
		}
	}
	return nil
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

func (s *Store) exhausted(set RangeSet, taken map[netip.Addr]bool) error {
	return fmt.Errorf("%w in %s: %d of %d are in use, %s lists by whom; delete pods, or give the node a larger subnet",
		ErrExhausted, set, inUse(set, taken), set.size(), filepath.Join(s.dir, addressesDir))
}
