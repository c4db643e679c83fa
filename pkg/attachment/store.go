package attachment

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/network"
	"github.com/overlay-cni/overlay-cni/internal/nofollow"
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

// Folders returns the paths of the folders of attachments and of reservations.
func (s *Store) Folders() []string { return []string{s.folder(), s.addresses.Path()} }

// Addresses returns the network's reservations.
func (s *Store) Addresses() *ipam.Reservations { return s.addresses }

func (s *Store) folder() string { return filepath.Join(s.dir, folder) }

func (s *Store) path(k Key) string { return filepath.Join(s.folder(), k.file()) }

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
	f, err := nofollow.Open(s.folder())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Names()
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var entries []Entry
	for _, file := range names {
		name, ours := strings.CutSuffix(file, ending)
		if !ours {
			continue
		}
		if e := s.entry(f, Key(name)); !errors.Is(e.Err, fs.ErrNotExist) {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

func (s *Store) entry(f nofollow.Folder, k Key) Entry {
	e := Entry{Key: k}
	data, written, err := f.ReadFileAt(k.file())
	e.Written = written
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Err = err
	case err != nil:
		e.Err = fmt.Errorf("%w: %w", ErrDamaged, err)
	default:
		e.Record, e.Err = s.parse(k, data)
	}
	return e
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
	f, err := nofollow.Open(s.folder())
	if err != nil {
		return Record{}, err
	}
	defer f.Close()
	data, err := f.ReadFile(k.file())
	if err != nil {
		return Record{}, err
	}
	return s.parse(k, data)
}

// Holder names who has an address, for messages: the pod, or the attachment if
// the runtime didn't name the pod, or the interface if there is no record.
func (s *Store) Holder(addr netip.Addr) string {
	owner, err := s.addresses.OwnerOf(addr)
	if err != nil {
		return "nobody"
	}
	if link, held := heldFor(owner); held {
		return "the pod behind interface " + link
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
	return err == nil && k.owns(owner)
}

// HeldBy lists the addresses that an attachment has reserved, and those that are
// held for its port.
func (s *Store) HeldBy(k Key) ([]netip.Addr, error) { return s.addresses.OwnedBy(k.owners()...) }

// BelongsToSibling tells whether an address belongs to another attachment of the same
// container: another interface of the pod.
func (s *Store) BelongsToSibling(o Owner, addr netip.Addr) bool {
	owner, err := s.addresses.OwnerOf(addr)
	if err != nil || o.Key().owns(owner) {
		return false
	}
	r, err := s.recordOf(keyOf(owner))
	return err == nil && r.ContainerID == o.ContainerID
}

// FreeLost releases the addresses of attachments whose file somebody removed,
// except those of attachments for which keep returns true. Before FreeLost releases an address it
// calls endUse, which removes everything that leads to the address. endUse
// returns false if a pod still has the address; then the address stays reserved.
// FreeLost returns the released addresses.
func (s *Store) FreeLost(keep func(Key) bool, endUse func(Key, netip.Addr) (bool, error)) ([]netip.Addr, error) {
	lost, err := s.lost()
	if err != nil {
		return nil, err
	}
	var freed []netip.Addr
	var errs []error
	for addr, key := range lost {
		if !keep(key) {
			ok, err := s.freeLost(addr, key, endUse)
			errs = append(errs, err)
			if ok {
				freed = append(freed, addr)
			}
		}
	}
	return freed, errors.Join(errs...)
}

// lost returns the reservations of attachments that have no file.
func (s *Store) lost() (map[netip.Addr]Key, error) {
	all, err := s.addresses.All()
	if err != nil {
		return nil, err
	}
	f, err := nofollow.Open(s.folder())
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent {
		return nil, err
	}
	defer f.Close()
	lost := map[netip.Addr]Key{}
	for addr, owner := range all {
		if _, held := heldFor(owner); held {
			continue
		}
		if key := keyOf(owner); absent || !f.Has(key.file()) {
			lost[addr] = key
		}
	}
	return lost, nil
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
	return errors.Join(s.addresses.RemoveAll(), os.RemoveAll(s.folder()))
}
