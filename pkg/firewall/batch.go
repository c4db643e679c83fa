package firewall

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// batch is a transaction that is being put together.
type batch struct {
	conn  *nftables.Conn
	table *nftables.Table
}

// stage adds the table before it deletes it, so that it does not matter
// whether there is one.
func (Remove) stage(b *batch) error {
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
	return nil
}

func (r Rebuild) stage(b *batch) error {
	if err := (Remove{}).stage(b); err != nil {
		return err
	}
	b.conn.AddTable(b.table)
	for i, s := range r.Table.Sets {
		if err := b.addSet(s, uint32(i+1)); err != nil {
			return err
		}
		if err := b.add(s.Name, r.Table.Elements[s.Name].Ranges); err != nil {
			return err
		}
	}
	for _, c := range r.Table.Chains {
		if err := b.addChain(c); err != nil {
			return err
		}
	}
	return nil
}

// stage deletes before it adds, because ranges may not overlap, and a range
// that grew overlaps what it was.
func (c Change) stage(b *batch) error {
	if err := b.remove(c.Set, c.Delete); err != nil {
		return err
	}
	return b.add(c.Set, c.Add)
}

func (r Refill) stage(b *batch) error {
	b.conn.FlushSet(b.set(r.Set))
	return b.add(r.Set, r.Ranges)
}

// addSet gives the set a number that is unique in the transaction. The
// library's own counter is shared by all connections and not guarded.
func (b *batch) addSet(s Set, id uint32) error {
	set, err := encodeSet(b.table, s)
	if err != nil {
		return err
	}
	set.ID = id
	return b.conn.AddSet(set, nil)
}

func (b *batch) addChain(c Chain) error {
	chain, err := encodeChain(b.table, c)
	if err != nil {
		return err
	}
	b.conn.AddChain(chain)
	for _, r := range c.Rules {
		exprs, err := encodeSteps(r.Steps)
		if err != nil {
			return fmt.Errorf("chain %s: %w", c.Name, err)
		}
		b.conn.AddRule(&nftables.Rule{
			Table: b.table, Chain: chain, Exprs: exprs, UserData: encodeComment(r.Comment),
		})
	}
	return nil
}

// rangesPerMessage keeps a message's list of elements, which is one attribute,
// below the 64 KiB that an attribute can have: a range takes 72 bytes at most.
// The library does not split lists.
const rangesPerMessage = 512

func (b *batch) add(set string, ranges []Range) error {
	for chunk := range slices.Chunk(ranges, rangesPerMessage) {
		if err := b.conn.SetAddElements(b.set(set), encodeRanges(chunk)); err != nil {
			return fmt.Errorf("set %s: %w", set, err)
		}
	}
	return nil
}

func (b *batch) remove(set string, ranges []Range) error {
	for chunk := range slices.Chunk(ranges, rangesPerMessage) {
		if err := b.conn.SetDeleteElements(b.set(set), encodeRanges(chunk)); err != nil {
			return fmt.Errorf("set %s: %w", set, err)
		}
	}
	return nil
}

// set is a set by name alone: all that is needed to change its elements.
func (b *batch) set(name string) *nftables.Set {
	return &nftables.Set{Table: b.table, Name: name, Interval: true}
}
