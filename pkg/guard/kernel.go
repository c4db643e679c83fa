package guard

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nft"
)

// ErrUnsupported says that the kernel has no nftables for bridges, so nothing keeps
// pods from sending what is not theirs.
var ErrUnsupported = errors.New("pods can send with the addresses of others, because the kernel has no nftables for bridges: " +
	"use Linux 5.4 or newer with CONFIG_NF_TABLES_BRIDGE, or set antiSpoofing to false")

// unsupported replaces nft's advice, which is about other parts of nf_tables.
func unsupported(err error) error {
	if errors.Is(err, nft.ErrUnsupported) {
		return ErrUnsupported
	}
	return err
}

// Kernel is the table in a network namespace. It is for one goroutine at a time.
type Kernel struct {
	conn *nft.Conn
	last settled
}

// On returns a Kernel that uses the socket. The caller closes the socket.
func On(c *nft.Conn) *Kernel { return &Kernel{conn: c} }

// Add guards a pod's port, which needn't exist yet. If the table exists, Add sends one
// message to the kernel and receives one.
func (k *Kernel) Add(p Pod) error {
	ops := operations(append(p.elements(), p.shared()...), nft.ID.AddElements)
	err := k.conn.Commit(nft.AnyGeneration, ops...)
	if !errors.Is(err, unix.ENOENT) {
		return unsupported(err)
	}
	if err := k.repair(); err != nil {
		return unsupported(err)
	}
	return unsupported(k.conn.Commit(nft.AnyGeneration, ops...))
}

// operations makes one operation for each set. The elements are sorted by set, or all
// of different ones.
func operations(elements []nft.Element, do func(nft.ID, ...nft.Element) nft.Op) []nft.Op {
	var ops []nft.Op
	for len(elements) > 0 {
		n := 1
		for n < len(elements) && elements[n].Set == elements[0].Set {
			n++
		}
		ops = append(ops, do(Table(), elements[:n]...))
		elements = elements[n:]
	}
	return ops
}

// repair makes the table whole and keeps its elements.
func (k *Kernel) repair() error {
	_, err := k.conn.Sync(Table(), func(have *nft.Table) (*nft.Table, error) {
		want := skeleton()
		want.Elements = usable(have)
		return want, nil
	})
	return err
}

// Delete removes what belongs to the pod alone. It succeeds if nothing is there.
func (k *Kernel) Delete(p Pod) error {
	return k.remove(p.elements())
}

// deleteAttempts bounds how often other processes may delete the same elements between
// the search for them and the deletion.
const deleteAttempts = 10

// remove deletes the elements. The kernel refuses to delete an element that is absent,
// so remove searches only after a refusal.
func (k *Kernel) remove(elements []nft.Element) error {
	for range deleteAttempts {
		err := k.conn.Commit(nft.AnyGeneration, operations(elements, nft.ID.DeleteElements)...)
		if !errors.Is(err, unix.ENOENT) {
			return unlessUnsupported(err)
		}
		if _, elements, err = k.conn.Find(Table(), elements); err != nil || len(elements) == 0 {
			return unlessUnsupported(err)
		}
	}
	return fmt.Errorf("delete elements from %s: %w", Table(), nft.ErrUnstable)
}

// DeletePort removes what belongs to the pod behind a port, without the pod's record.
// If the port is not guarded, DeletePort costs one short exchange.
func (k *Kernel) DeletePort(port string) error {
	_, found, err := k.conn.Find(Table(), []nft.Element{{Set: setPorts, Key: string(nft.PadName(port))}})
	if err != nil || len(found) == 0 {
		return unlessUnsupported(err)
	}
	have, _, err := k.conn.Read(Table())
	if err != nil {
		return err
	}
	var elements []nft.Element
	for _, e := range usable(have) {
		if portOf(e) == port {
			elements = append(elements, e)
			elements = append(elements, sharedBy(e)...)
		}
	}
	return k.remove(elements)
}

// unlessUnsupported returns nil if the kernel has no such tables: there is nothing to
// delete.
func unlessUnsupported(err error) error {
	if errors.Is(err, nft.ErrUnsupported) {
		return nil
	}
	return err
}
