package nft

import (
	"errors"
	"fmt"
	"reflect"

	"golang.org/x/sys/unix"
)

// Sync turns the table into the one that decide returns, and returns what it
// changed. decide gets the table as it was read. Sync calls decide again if
// another program changed any rules before the transaction.
func (c *Conn) Sync(id ID, decide func(have *Table) (*Table, error)) ([]Change, error) {
	changes, _, err := c.sync(id, decide)
	return changes, err
}

// sync also returns the generation as of which the table is as decided.
func (c *Conn) sync(id ID, decide func(have *Table) (*Table, error)) ([]Change, uint32, error) {
	for range attempts {
		have, generation, err := c.Read(id)
		if err != nil {
			return nil, 0, err
		}
		want, err := decide(have)
		if err != nil {
			return nil, 0, err
		}
		changes, after, err := c.change(id, want, have, generation)
		if !errors.Is(err, unix.ERESTART) {
			return changes, after, err
		}
	}
	return nil, 0, fmt.Errorf("change %s: %w", id, ErrUnstable)
}

// following is the generation after the next transaction. The kernel leaves out 0.
func following(generation uint32) uint32 {
	if generation++; generation == AnyGeneration {
		generation++
	}
	return generation
}

// Keeper keeps a table that belongs to one process. Sync reads the table only if any
// rules of the network namespace changed since the last Sync: with thousands of
// elements that takes longer than all the rest.
type Keeper struct {
	conn *Conn
	id   ID
	// synced is the table that the last Sync left in the kernel, as of the
	// generation. The generation is AnyGeneration if nothing is known.
	synced     *Table
	generation uint32
}

// NewKeeper returns a Keeper that uses the Conn.
func NewKeeper(c *Conn, id ID) *Keeper { return &Keeper{conn: c, id: id} }

// Sync turns the table into the wanted one, and returns what it changed. It
// removes the table if want is nil. The caller must not alter want afterwards.
func (k *Keeper) Sync(want *Table) ([]Change, error) {
	generation, err := k.conn.Generation()
	if err != nil {
		return nil, err
	}
	have, known := k.synced, k.generation == generation
	if known && reflect.DeepEqual(want, have) {
		return nil, nil
	}
	k.generation = AnyGeneration
	var changes []Change
	if known {
		changes, generation, err = k.conn.change(k.id, want, have, generation)
	}
	if !known || errors.Is(err, unix.ERESTART) {
		changes, generation, err = k.conn.sync(k.id, func(*Table) (*Table, error) { return want, nil })
	}
	if err != nil {
		return nil, err
	}
	k.synced, k.generation = want, generation
	return changes, nil
}

// change turns the table from have, as of the generation, into want. It returns the
// generation afterwards. The error is unix.ERESTART if any rules changed since.
func (c *Conn) change(id ID, want, have *Table, generation uint32) ([]Change, uint32, error) {
	t := Plan(id, want, have)
	if len(t.Ops) == 0 {
		return nil, generation, nil
	}
	if err := c.Commit(generation, t.Ops...); err != nil {
		return nil, 0, err
	}
	return t.Changes, following(generation), nil
}
