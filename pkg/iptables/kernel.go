package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// Kernel reads and changes both kinds of iptables in the network namespace of the
// calling thread. If a process has threads in different namespaces, the caller has to
// lock its thread (runtime.LockOSThread). All methods except Watch are for one
// goroutine at a time.
type Kernel struct {
	nft *nft.Conn // nil before the first Sync
	// settled are the places where the last Sync found the desired rules.
	settled map[place]settled
}

// kind is one of the two implementations of iptables in the kernel.
type kind interface {
	// name is the name of the program whose rules the kind has.
	name() string
	// stamp returns a value that is cheap to read and changes whenever the table
	// filter changes, or nil if there is no such table.
	stamp(family.Family) (any, error)
	// read returns the table. It may leave out details that no operation needs.
	read(f family.Family, want []Rule) (Table, error)
	// apply carries out all of the operations or none.
	apply(family.Family, []Op) error
}

// place is where a chain of ours can be.
type place struct {
	kind   string
	family family.Family
}

// settled says that a place had the desired rules while the table had the stamp.
type settled struct {
	stamp any
	rules string
}

// New returns a Kernel that has not read anything yet.
func New() *Kernel { return &Kernel{settled: map[place]settled{}} }

// Sync brings our chains and the jumps to them into the desired state and returns its
// changes. A place that fails doesn't stop the others. If the error wraps
// ErrNoProgram, an administrator has to act.
func (k *Kernel) Sync(want State) (changes []string, err error) {
	var errs []error
	kinds, err := k.kinds()
	if err != nil {
		errs = append(errs, err)
	}
	for _, d := range kinds {
		for _, f := range family.All() {
			ops, err := k.sync(d, f, want[f])
			if err != nil {
				errs = append(errs, fmt.Errorf("%s, %s: %w", d.name(), f, err))
				continue
			}
			for _, op := range ops {
				changes = append(changes, fmt.Sprintf("%s, %s: %s", d.name(), f, op))
			}
		}
	}
	return changes, errors.Join(errs...)
}

// kinds returns both kinds, or only the second one on a kernel without nf_tables.
func (k *Kernel) kinds() (_ []kind, err error) {
	if k.nft == nil {
		k.nft, err = nft.Dial()
	}
	if errors.Is(err, nft.ErrUnsupported) {
		return []kind{legacy{}}, nil
	}
	if err != nil {
		return []kind{legacy{}}, err
	}
	return []kind{nftTables{k.nft}, legacy{}}, nil
}

// Close closes what Sync opened.
func (k *Kernel) Close() {
	if k.nft != nil {
		k.nft.Close()
		k.nft = nil
	}
}

// Remove deletes our chains and the jumps to them and returns what it changed.
func (k *Kernel) Remove() (changes []string, err error) { return k.Sync(nil) }

// ForceResync makes the next Sync read everything again. Between resyncs an
// alteration of iptables-legacy's rules goes unnoticed if it leaves all sizes, and
// the policy of FORWARD, as they were.
func (k *Kernel) ForceResync() { clear(k.settled) }

// sync repairs one place. A place that was right is not read again while the
// stamp stays the same. The stamp is read before the table, and not again after
// our own change, so another program's change is never taken for ours.
func (k *Kernel) sync(d kind, f family.Family, want []Rule) ([]Op, error) {
	stamp, err := d.stamp(f)
	if err != nil || stamp == nil {
		return nil, err
	}
	here, now := place{d.name(), f}, settled{stamp, strings.Join(texts(want), "\n")}
	if before, known := k.settled[here]; known && before == now {
		return nil, nil
	}
	have, err := d.read(f, want)
	if err != nil {
		return nil, err
	}
	ops := Plan(want, have)
	if len(ops) == 0 {
		k.settled[here] = now
		return nil, nil
	}
	delete(k.settled, here)
	return ops, d.apply(f, ops)
}

// pollInterval is how long a change of iptables-legacy's rules may go unnoticed.
// A poll takes some 0.02 ms.
const pollInterval = time.Second

// Watch calls changed whenever iptables-legacy's table filter has changed, until
// ctx ends. The kernel sends no notifications about this table, so Watch polls every
// second. nf_tables notifies package monitor of changes of iptables-nft's tables.
func (k *Kernel) Watch(ctx context.Context, changed func()) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	seen := map[family.Family]any{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if poll(seen) {
			changed()
		}
	}
}

// poll updates seen and reports whether anything differed. It ignores errors, because
// Sync reports the same ones.
func poll(seen map[family.Family]any) (changed bool) {
	for _, f := range family.All() {
		now, err := legacy{}.stamp(f)
		if err == nil && now != seen[f] {
			seen[f], changed = now, true
		}
	}
	return changed
}

// failed adds the operation to an error, and advice if rights are missing.
func failed(doing string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%s: %w: CAP_NET_ADMIN is needed", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
