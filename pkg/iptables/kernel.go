package iptables

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Kernel is the door of this package to the iptables of a network namespace:
// of the thread that calls a method. Where threads are in different namespaces
// the caller has to hold his (runtime.LockOSThread). It keeps no socket, so it
// needs no closing. It is for one goroutine at a time, but for Fingerprint.
type Kernel struct {
	// settled are the chains that were found to be right.
	settled map[place]settled
}

// door is one of the two implementations that the kernel has of iptables.
type door interface {
	// name is that of the program whose rules are there.
	name() string
	// has tells whether chains of ours can be there.
	has(Spot) bool
	// stamp is a number that changes with the table where the chain is or would
	// be, perhaps more often, and is cheaper to read: 0 where there is no table.
	stamp(c Chain) (uint64, error)
	// read may leave out what makes no difference to want.
	read(want Chain) (Table, error)
	// apply carries out all of the operations or none.
	apply(f Family, spot Spot, ops []Op) error
}

// place is one that a chain can have in a kernel.
type place struct {
	door   string
	family Family
	spot   Spot
}

// settled is a chain that was right, when the table was in the state that the
// stamp stands for.
type settled struct {
	stamp uint64
	rules string
}

// New returns the door to iptables-nft and iptables-legacy.
func New() *Kernel {
	return &Kernel{settled: map[place]settled{}}
}

// Sync makes the chains what want says and tells what it changed. A place
// that fails does not keep the others from being mended. ErrNoProgram among
// the errors is one that only the host's administrator can mend.
func (k *Kernel) Sync(want State) ([]string, error) {
	var changes []string
	var errs []error
	for _, d := range []door{nft{}, legacy{}} {
		for _, c := range want.everywhere() {
			if !d.has(c.Spot) {
				continue
			}
			ops, err := k.mend(d, c)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s, %s: %w", d.name(), c.Family, err))
				continue
			}
			for _, op := range ops {
				changes = append(changes, fmt.Sprintf("%s, %s: %s", d.name(), c.Family, op))
			}
		}
	}
	return changes, errors.Join(errs...)
}

// mend does for one chain what Sync does for all. A chain that was right is
// not read again as long as the table's stamp is the same. The stamp is taken
// before the table is read, and not after the table was changed, so that no
// change by another program is ever taken for a known one.
func (k *Kernel) mend(d door, c Chain) ([]Op, error) {
	stamp, err := d.stamp(c)
	if err != nil {
		return nil, err
	}
	here := place{d.name(), c.Family, c.Spot}
	now := settled{stamp, strings.Join(c.texts(), "\n")}
	if before, known := k.settled[here]; known && before == now {
		return nil, nil
	}
	have, err := d.read(c)
	if err != nil {
		return nil, err
	}
	ops := Plan(c, have)
	if len(ops) == 0 {
		k.settled[here] = now
		return nil, nil
	}
	delete(k.settled, here)
	return ops, d.apply(c.Family, c.Spot, ops)
}

// Fingerprint stands for the state of all tables in which chains of a State
// are. Two are equal if nothing has changed between them.
type Fingerprint struct {
	// Generation is nf_tables' number of changes. It counts those to all tables,
	// and a netlink subscription tells of them too.
	Generation uint64
	// Legacy stands for the contents of ip_tables' tables, counters excluded; of
	// tables with more than some 300 rules for their sizes only, which nearly
	// every change alters too. Nothing else tells of their changes.
	Legacy uint64
}

// Fingerprint is for asking every second whether a Sync is due. It runs no
// program and loads no module of ip_tables.
func (k *Kernel) Fingerprint(want State) (Fingerprint, error) {
	number, err := generation()
	errs := []error{err}
	sums := xxhash.New()
	for _, t := range want.tables() {
		sum, err := sumOf(t.family, t.name, smallTable)
		errs = append(errs, err)
		fmt.Fprintln(sums, t.family, t.name, sum)
	}
	return Fingerprint{Generation: number, Legacy: sums.Sum64()}, errors.Join(errs...)
}

// table names one of ip_tables' tables.
type table struct {
	family Family
	name   string
}

// tables lists those in which there are chains of s.
func (s State) tables() []table {
	var all []table
	for _, c := range s {
		if t := (table{c.Family, c.Spot.Table}); !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	return all
}
