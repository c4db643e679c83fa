package attachment

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

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

const folder = "attachments"

// Store holds the attachments of one network on this host. Its methods may be
// called by any number of processes at once.
type Store struct {
	dir       string // the network's state directory
	network   network.Name
	addresses *ipam.Reservations
	patience  time.Duration // how long to wait for another process's lock
}

// Open returns the store of a network, which need not exist yet in the run
// directory.
func Open(runDir string, n network.Name) *Store {
	dir := n.StateDir(runDir)
	return &Store{dir: dir, network: n, addresses: ipam.Open(dir), patience: lockPatience}
}

// Addresses returns the network's reservations.
func (s *Store) Addresses() *ipam.Reservations { return s.addresses }

func (s *Store) path(k Key) string { return filepath.Join(s.dir, folder, string(k)+ending) }

// owner is the name of the attachment in its reservations.
func (k Key) owner() ipam.Owner {
	return ipam.Owner(filepath.Join("..", folder, string(k)+ending))
}

// keyOf is the attachment that has a reservation: the inverse of owner.
func keyOf(o ipam.Owner) Key { return Key(strings.TrimSuffix(filepath.Base(string(o)), ending)) }

// openFile is os.OpenFile for a regular file: os.OpenFile would offer the file to
// the poller first, which takes nine system calls.
func openFile(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Entry is an attachment as List finds it.
type Entry struct {
	Key    Key
	Record Record
	// Written is when the record was written, by the file system's clock.
	Written time.Time
	// Err says why there is no Record: ErrDamaged, ErrNewer, or ErrEmpty.
	Err error
}

// List reads all attachments. An attachment that goes while List reads is left
// out.
func (s *Store) List() ([]Entry, error) {
	files, err := os.ReadDir(filepath.Join(s.dir, folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, f := range files {
		name, ours := strings.CutSuffix(f.Name(), ending)
		if !ours {
			continue
		}
		e, err := s.entry(Key(name), f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func (s *Store) entry(k Key, f fs.DirEntry) (Entry, error) {
	e := Entry{Key: k}
	data, err := os.ReadFile(s.path(k))
	if errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	if err != nil {
		e.Err = fmt.Errorf("%w: %w", ErrDamaged, err)
		return e, nil
	}
	info, err := f.Info()
	if err != nil {
		return e, err
	}
	e.Written = info.ModTime()
	if e.Record, err = s.parse(k, data); err != nil {
		e.Err = err
	}
	return e, nil
}

// parse reads the record of an attachment, which has to be this network's.
func (s *Store) parse(k Key, data []byte) (Record, error) {
	r, err := parseRecord(data)
	if err == nil && r.Network != s.network {
		err = fmt.Errorf("%w: it is of network %q, not %q", ErrDamaged, r.Network, s.network)
	}
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", s.path(k), err)
	}
	return r, nil
}

func (s *Store) recordOf(k Key) (Record, error) {
	data, err := os.ReadFile(s.path(k))
	if err != nil {
		return Record{}, err
	}
	return s.parse(k, data)
}

// Holder names who has an address, for messages: the pod, or the attachment if
// the runtime didn't name the pod.
func (s *Store) Holder(addr netip.Addr) string {
	owner, err := s.addresses.OwnerOf(addr)
	if err != nil {
		return "nobody"
	}
	key := keyOf(owner)
	if r, err := s.recordOf(key); err == nil && r.Pod != "" {
		return "pod " + r.Pod
	}
	return "attachment " + string(key)
}

// Has tells whether an attachment has the reservation of an address.
func (s *Store) Has(k Key, addr netip.Addr) bool {
	owner, err := s.addresses.OwnerOf(addr)
	return err == nil && owner == k.owner()
}

// HeldBy lists the addresses that an attachment has reserved.
func (s *Store) HeldBy(k Key) ([]netip.Addr, error) { return s.addresses.OwnedBy(k.owner()) }

// BelongsToSibling tells whether an address belongs to another attachment of the same
// container: another interface of the pod.
func (s *Store) BelongsToSibling(o Owner, addr netip.Addr) bool {
	owner, err := s.addresses.OwnerOf(addr)
	if err != nil || owner == o.Key().owner() {
		return false
	}
	r, err := s.recordOf(keyOf(owner))
	return err == nil && r.ContainerID == o.ContainerID
}

// FreeLost releases the addresses of attachments whose file somebody removed,
// except those of attachments in keep. Before FreeLost releases an address it
// calls endUse, which removes everything that leads to the address. endUse
// returns false if a pod still has the address; then the address stays reserved.
// FreeLost returns the released addresses.
func (s *Store) FreeLost(keep map[Key]bool, endUse func(Key, netip.Addr) (bool, error)) ([]netip.Addr, error) {
	lost, err := s.addresses.Lost()
	if err != nil {
		return nil, err
	}
	var freed []netip.Addr
	var errs []error
	for addr, owner := range lost {
		if key := keyOf(owner); !keep[key] {
			ok, err := s.freeLost(addr, key, endUse)
			errs = append(errs, err)
			if ok {
				freed = append(freed, addr)
			}
		}
	}
	return freed, errors.Join(errs...)
}

// freeLost releases an address under its attachment's lock, so that no other
// process does the same at the same time.
func (s *Store) freeLost(addr netip.Addr, key Key, endUse func(Key, netip.Addr) (bool, error)) (bool, error) {
	a, err := s.Lock(key)
	if err != nil {
		return false, err
	}
	defer func() { _ = a.Close() }()
	if !a.Fresh() {
		return false, nil // an ADD made the attachment anew
	}
	if unused, err := endUse(key, addr); !unused || err != nil {
		return false, errors.Join(err, a.Release()) // which removes the file only
	}
	return true, errors.Join(s.addresses.Release(addr, key.owner()), a.Release())
}

// RemoveAll forgets all attachments and reservations. It is for a host that
// leaves the network, where no plugin runs any more.
func (s *Store) RemoveAll() error {
	return errors.Join(s.addresses.RemoveAll(), os.RemoveAll(filepath.Join(s.dir, folder)))
}
