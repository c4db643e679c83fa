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
)

// Entry is an attachment as it is found on disk.
type Entry struct {
	Key    Key
	Record Record
	// Written is when the record was, by the run directory's file system.
	Written time.Time
	// Err says why there is no Record: ErrDamaged, ErrNewer, or ErrEmpty.
	Err error
}

// ErrEmpty is for an attachment of which nothing is recorded yet: an ADD is at
// work, or was killed before it touched the kernel.
var ErrEmpty = errors.New("nothing is recorded yet")

// List reads all attachments. One that goes while it reads is left out.
func (s *Store) List() ([]Entry, error) {
	names, err := os.ReadDir(filepath.Join(s.dir, attachmentsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, n := range names {
		name, ours := strings.CutSuffix(n.Name(), ending)
		if !ours {
			continue
		}
		e, err := s.entry(Key(name), n)
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
	data, err := os.ReadFile(s.attachmentPath(k))
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
	if len(data) == 0 {
		e.Err = ErrEmpty
	} else if e.Record, err = parseRecord(data); err != nil {
		e.Err = fmt.Errorf("%s: %w", s.attachmentPath(k), err)
	}
	return e, nil
}

// Holder names who has an address, for messages: the pod, or where the runtime
// didn't tell that, the attachment.
func (s *Store) Holder(addr netip.Addr) string {
	key, err := s.holder(addr)
	if err != nil {
		return "nobody"
	}
	if r, err := s.recordOf(key); err == nil && r.Pod != "" {
		return "pod " + r.Pod
	}
	return "attachment " + string(key)
}

// Has tells whether an attachment has the reservation of an address.
func (s *Store) Has(k Key, addr netip.Addr) bool {
	holder, err := s.holder(addr)
	return err == nil && holder == k
}

// IsSiblings tells whether an address is of another attachment of the same
// container: another network's.
func (s *Store) IsSiblings(o Owner, addr netip.Addr) bool {
	key, err := s.holder(addr)
	if err != nil || key == o.Key() {
		return false
	}
	r, err := s.recordOf(key)
	return err == nil && r.ContainerID == o.ContainerID
}

func (s *Store) recordOf(k Key) (Record, error) {
	data, err := os.ReadFile(s.attachmentPath(k))
	if err != nil {
		return Record{}, err
	}
	return parseRecord(data)
}

// FreeLost gives back the addresses that belong to no attachment: what is left
// of one whose file somebody removed. Those of keep stay. Disuse ends an
// address's use before it is free, and tells whether it did: one that a pod has
// stays. It returns the freed.
func (s *Store) FreeLost(keep map[Key]bool, disuse func(Key, netip.Addr) (bool, error)) ([]netip.Addr, error) {
	taken, err := s.reserved()
	if err != nil {
		return nil, err
	}
	var freed []netip.Addr
	var errs []error
	for addr := range taken {
		// A link that leads nowhere is lost: an attachment's file comes before
		// its reservations and goes after them.
		if _, err := os.Stat(s.addressPath(addr)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		holder, err := s.holder(addr)
		if err != nil || keep[holder] {
			continue // freed by now, or to stay
		}
		ok, err := s.freeLost(addr, holder, disuse)
		errs = append(errs, err)
		if ok {
			freed = append(freed, addr)
		}
	}
	return freed, errors.Join(errs...)
}

// freeLost frees an address under the lock of the attachment that it names,
// which keeps everybody else from doing the same at the same time.
func (s *Store) freeLost(addr netip.Addr, holder Key, disuse func(Key, netip.Addr) (bool, error)) (bool, error) {
	a, err := s.Lock(holder)
	if err != nil {
		return false, err
	}
	defer func() { _ = a.Close() }()
	if !a.Fresh() {
		return false, nil // it is an attachment's again
	}
	if unused, err := disuse(holder, addr); !unused || err != nil {
		return false, errors.Join(err, a.Release()) // of which it is the file alone
	}
	return true, errors.Join(s.free(addr, holder), a.Release())
}
