package ipam

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// Attachment is the file of one attachment, locked by this process.
type Attachment struct {
	store *Store
	key   Key
	file  *os.File
	// fresh: this process made or emptied the file, so that the addresses it
	// reserved are all that there are.
	fresh     bool
	addresses []netip.Addr
}

// Lock makes the file of an attachment and locks it. If it is there already,
// it waits for the process that works on it, if any, but not for ever (ErrBusy);
// see Fresh.
func (s *Store) Lock(k Key) (*Attachment, error) {
	for {
		a, err := s.open(k, os.O_RDWR|os.O_CREATE|os.O_EXCL, s.patience)
		if errors.Is(err, fs.ErrNotExist) {
			if err := s.makeDirs(); err != nil {
				return nil, err
			}
			continue
		}
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, errGone) {
			return a, err
		}
		a, err = s.LockExisting(k)
		if !errors.Is(err, fs.ErrNotExist) {
			return a, err
		}
	}
}

// LockExisting is Lock for an attachment that is there; the error is
// fs.ErrNotExist if it isn't.
func (s *Store) LockExisting(k Key) (*Attachment, error) {
	for {
		a, err := s.open(k, os.O_RDWR, s.patience)
		if !errors.Is(err, errGone) {
			return a, err
		}
	}
}

// TryLock is LockExisting, but where another process has the lock, which means
// that it works on the attachment, it doesn't wait: the error is ErrBusy.
func (s *Store) TryLock(k Key) (*Attachment, error) {
	a, err := s.open(k, os.O_RDWR, 0)
	if errors.Is(err, errGone) {
		return nil, fs.ErrNotExist
	}
	return a, err
}

// LockForRemoval is LockExisting, but an attachment of which only reservations
// are left counts as there.
func (s *Store) LockForRemoval(k Key) (*Attachment, error) {
	a, err := s.LockExisting(k)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	held, listErr := s.HeldBy(k)
	if len(held) == 0 || listErr != nil {
		return nil, errors.Join(err, listErr)
	}
	if a, err = s.Lock(k); err == nil {
		a.fresh = false
	}
	return a, err
}

// open opens the file and locks it, which it may have to wait for.
func (s *Store) open(k Key, flags int, wait time.Duration) (*Attachment, error) {
	f, err := openFile(s.attachmentPath(k), flags)
	if err != nil {
		return nil, err
	}
	if err := s.lock(f, wait); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return &Attachment{store: s, key: k, file: f, fresh: flags&os.O_EXCL != 0}, nil
}

// Fresh tells that the attachment wasn't there before. If it was, it belongs
// to an ADD that came to its end, or to one that was killed on its way.
func (a *Attachment) Fresh() bool { return a.fresh }

// Record reads what is written about the attachment. If nothing is, because it
// is new or was given up early, the second value is false.
func (a *Attachment) Record() (Record, bool, error) {
	if _, err := a.file.Seek(0, io.SeekStart); err != nil {
		return Record{}, false, err
	}
	data, err := io.ReadAll(a.file)
	if err != nil || len(data) == 0 {
		return Record{}, false, err
	}
	r, err := parseRecord(data)
	if err == nil && r.Owner().Key() != a.key {
		err = fmt.Errorf("%w: it is of container %q, interface %s", ErrDamaged, r.ContainerID, r.IfName)
	}
	if err != nil {
		return Record{}, true, fmt.Errorf("%s: %w", a.file.Name(), err)
	}
	return r, true, nil
}

// Reserved returns nil if the attachment has the reservation of addr, else an
// error that says who has it.
func (a *Attachment) Reserved(addr netip.Addr) error {
	holder, err := a.store.holder(addr)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the reservation of address %s is gone", addr)
	case err != nil:
		return err
	case holder != a.key:
		return fmt.Errorf("%w: %s is reserved by %s", ErrTaken, addr, holder)
	}
	return nil
}

// Write records the attachment, with the addresses that Reserve took.
func (a *Attachment) Write(r Record) error {
	r.Addresses = a.addresses
	text, err := r.text()
	if err != nil {
		return err
	}
	_, err = a.file.WriteAt(text, 0)
	return err
}

// ErrNotInRange is for an address that was asked for and can't be given.
var ErrNotInRange = errors.New("address is in no range")

// Reserve takes one address of each range set, in their order: the one of
// fixed that is of the set, or else the next that is free. The error is
// ErrExhausted if a set has none left, and ErrNotInRange or ErrTaken if one of
// fixed can't be given.
func (a *Attachment) Reserve(sets []RangeSet, fixed []netip.Addr) ([]netip.Addr, error) {
	asked, err := assign(sets, fixed)
	if err != nil {
		return nil, err
	}
	for i, set := range sets {
		addr := asked[i]
		if addr.IsValid() {
			err = a.store.fixed(addr, a.key)
		} else {
			addr, err = a.store.reserve(set, a.key)
		}
		if err != nil {
			return nil, err
		}
		a.addresses = append(a.addresses, addr)
	}
	return a.addresses, nil
}

// assign finds the set that each of the fixed addresses is of.
func assign(sets []RangeSet, fixed []netip.Addr) ([]netip.Addr, error) {
	asked := make([]netip.Addr, len(sets))
	for _, addr := range fixed {
		i := slices.IndexFunc(sets, func(s RangeSet) bool {
			_, ok := s.Find(addr)
			return ok
		})
		switch {
		case i < 0:
			return nil, fmt.Errorf("%w: %s was asked for, but pods can have addresses of %s without gateways and excluded ones", ErrNotInRange, addr, join(sets))
		case asked[i].IsValid():
			return nil, fmt.Errorf("%w: %s was asked for beside %s, but a pod gets one address of %s", ErrNotInRange, addr, asked[i], sets[i])
		}
		asked[i] = addr
	}
	return asked, nil
}

func join(sets []RangeSet) string {
	var texts []string
	for _, s := range sets {
		texts = append(texts, s.String())
	}
	return strings.Join(texts, " and ")
}

// Release gives all addresses back and removes the attachment's file. Calling
// it for what is half done, damaged or empty is fine. The lock stays until
// Close, but is worth nothing: the next one may begin.
func (a *Attachment) Release() error {
	if err := a.free(); err != nil {
		return err // the file stays, so that the next DEL knows what to free
	}
	if err := os.Remove(a.file.Name()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Reset gives all addresses back and empties the file, after which the
// attachment is as a fresh one.
func (a *Attachment) Reset() error {
	if err := a.free(); err != nil {
		return err
	}
	a.fresh, a.addresses = true, nil
	return a.file.Truncate(0)
}

// Distrust forgets what is recorded, where it turned out not to be all that the
// attachment has: from then on the reservations tell.
func (a *Attachment) Distrust() error {
	a.fresh = false
	return a.file.Truncate(0)
}

func (a *Attachment) free() error {
	held, err := a.Held()
	if err != nil {
		return err
	}
	var errs []error
	for _, addr := range held {
		errs = append(errs, a.store.free(addr, a.key))
	}
	return errors.Join(errs...)
}

// Held lists the attachment's addresses. Where no record tells, because an ADD
// was killed before it wrote one or somebody damaged it, the reservations
// themselves do.
func (a *Attachment) Held() ([]netip.Addr, error) {
	if a.fresh {
		return a.addresses, nil
	}
	if r, found, err := a.Record(); found && err == nil {
		return r.Addresses, nil
	}
	return a.store.HeldBy(a.key)
}

// Close gives up the lock.
func (a *Attachment) Close() error { return a.file.Close() }
