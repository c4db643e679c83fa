package attachment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/nofollow"
	"github.com/overlay-cni/overlay-cni/pkg/ipam"
)

// Attachment is the file of one attachment, locked by this process.
type Attachment struct {
	store  *Store
	key    Key
	folder nofollow.Folder
	file   *os.File
	// fresh says that this process made or emptied the file, so the attachment has
	// only addresses that this process reserved.
	fresh     bool
	addresses []netip.Addr
}

// Lock makes the file of an attachment and locks it. If another process has the
// lock, Lock waits for it. If that takes too long, the error is ErrBusy. Fresh
// tells whether Lock made the file.
func (s *Store) Lock(k Key) (*Attachment, error) {
	for {
		folder, err := nofollow.Make(s.folder())
		if err != nil {
			return nil, err
		}
		a, err := s.open(folder, k, os.O_RDWR|os.O_CREATE|os.O_EXCL, s.patience)
		if errors.Is(err, fs.ErrNotExist) {
			continue // somebody removed the folder
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

// LockExisting is Lock for an attachment that has a file. The error is
// fs.ErrNotExist if there is none.
func (s *Store) LockExisting(k Key) (*Attachment, error) {
	for {
		a, err := s.openExisting(k, s.patience)
		if !errors.Is(err, errGone) {
			return a, err
		}
	}
}

// TryLock is LockExisting without the wait: if another process works on the
// attachment, the error is ErrBusy.
func (s *Store) TryLock(k Key) (*Attachment, error) {
	a, err := s.openExisting(k, 0)
	if errors.Is(err, errGone) {
		return nil, fs.ErrNotExist
	}
	return a, err
}

func (s *Store) openExisting(k Key, wait time.Duration) (*Attachment, error) {
	folder, err := nofollow.Open(s.folder())
	if err != nil {
		return nil, err
	}
	return s.open(folder, k, os.O_RDWR, wait)
}

// LockForRemoval is LockExisting, but makes the file if reservations are all that
// is left of the attachment.
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

// open opens the file and locks it. It waits for the lock up to wait. The
// attachment keeps the folder, which open closes if it fails.
func (s *Store) open(folder nofollow.Folder, k Key, flags int, wait time.Duration) (*Attachment, error) {
	f, err := folder.OpenFile(k.file(), flags)
	if err != nil {
		folder.Close()
		return nil, err
	}
	if err := s.lock(f, wait); err != nil {
		folder.Close()
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return &Attachment{store: s, key: k, folder: folder, file: f, fresh: flags&os.O_EXCL != 0}, nil
}

// Fresh tells whether the attachment is new. If not, an earlier ADD made it, and
// ended or was killed.
func (a *Attachment) Fresh() bool { return a.fresh }

// Record reads the attachment's record. The second value is false if nothing is
// recorded, because the attachment is new or its ADD failed early.
func (a *Attachment) Record() (Record, bool, error) {
	if _, err := a.file.Seek(0, io.SeekStart); err != nil {
		return Record{}, false, err
	}
	data, err := io.ReadAll(a.file)
	if err != nil || len(data) == 0 {
		return Record{}, false, err
	}
	r, err := a.store.parse(a.key, data)
	if err == nil && r.Owner().Key() != a.key {
		err = fmt.Errorf("%s: %w: it is of container %q, interface %s", a.file.Name(), ErrDamaged, r.ContainerID, r.IfName)
	}
	return r, true, err
}

// Reserved returns nil if the attachment has the reservation of addr, else an
// error that says who has it.
func (a *Attachment) Reserved(addr netip.Addr) error {
	owner, err := a.store.addresses.OwnerOf(addr)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the reservation of address %s is gone", addr)
	case err != nil:
		return err
	case !a.key.owns(owner):
		return fmt.Errorf("%w: %s is reserved by %s", ipam.ErrTaken, addr, keyOf(owner))
	}
	return nil
}

// Write records the attachment. It fills in the network and the addresses that
// Reserve took.
func (a *Attachment) Write(r Record) error {
	r.Network, r.Addresses = a.store.network, a.addresses
	text, err := r.text()
	if err != nil {
		return err
	}
	_, err = a.file.WriteAt(text, 0)
	return err
}

// Reserve takes one address of each range set, see ipam.Reservations.Reserve.
func (a *Attachment) Reserve(sets []ipam.RangeSet, asked []netip.Addr) ([]netip.Addr, error) {
	var err error
	a.addresses, err = a.store.addresses.Reserve(a.key.owner(), sets, asked)
	var taken *ipam.TakenError
	if errors.As(err, &taken) {
		err = fmt.Errorf("%w is reserved by %s", err, a.store.Holder(taken.Addr))
	}
	return a.addresses, err
}

// Release gives all addresses back and removes the attachment's file, also of an
// attachment that is half done, damaged or empty. The lock stays until Close, but
// protects nothing any more: the next ADD may begin.
func (a *Attachment) Release() error {
	if err := a.free(); err != nil {
		return err // the file stays, so that the next DEL knows what to free
	}
	if err := a.folder.Remove(a.key.file()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Reset gives all addresses back and empties the file. Then the attachment is
// Fresh.
func (a *Attachment) Reset() error {
	if err := a.free(); err != nil {
		return err
	}
	a.fresh, a.addresses = true, nil
	return a.file.Truncate(0)
}

// ForgetRecord empties the file of an attachment that has more than its record
// says. From then on Held reads the reservations.
func (a *Attachment) ForgetRecord() error {
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
		errs = append(errs, a.store.addresses.Release(addr, a.key.owners()...))
	}
	return errors.Join(errs...)
}

// Held lists the attachment's addresses. If there is no usable record, because an
// ADD was killed before it wrote one or somebody damaged the file, Held reads the
// reservations.
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
func (a *Attachment) Close() error {
	a.folder.Close()
	return a.file.Close()
}
