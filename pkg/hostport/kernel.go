package hostport

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nft"
	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// Kernel is the table in a network namespace. It is for one goroutine at a
// time.
type Kernel struct {
	conn *nft.Conn
}

// Open opens the network namespace of the calling thread, which has to be in the same
// namespace when it calls a method. The error is ErrUnsupported where the kernel has
// no netfilter.
func Open() (*Kernel, error) {
	c, err := nft.Dial()
	if err != nil {
		return nil, err
	}
	return On(c), nil
}

// On is Open with a socket that the caller has. Whoever closes the Kernel closes the
// socket.
func On(c *nft.Conn) *Kernel { return &Kernel{c} }

// Close closes the socket.
func (k *Kernel) Close() { k.conn.Close() }

// Add opens the pod's host ports, all or none, and deletes earlier UDP flows to these
// ports from connection tracking. Ports that the pod has already, in this network or
// another one, are no error. If another pod has one of the ports, the error is a
// *TakenError.
//
// If the table exists, which is so for all pods but the first one, Add sends one
// message to the kernel and receives one.
func (k *Kernel) Add(p Pod) error {
	elements := p.elements()
	if len(elements) == 0 {
		return nil
	}
	err := k.insert(elements)
	var taken *TakenError
	if errors.As(err, &taken) && p.leadsElsewhere(taken.Holder.encode()) {
		if err := k.findElsewhere(&p); err != nil {
			return err
		}
		return k.Add(p) // the rest
	}
	if err != nil {
		return err
	}
	mapped := p.mapped()
	if _, err := openLocalnet(p.Bridge, mapped); err != nil {
		return err
	}
	return deleteFlowsToHost(mapped)
}

// findElsewhere finds all ports that lead to siblings in one read. Otherwise each of
// them would cost a refused transaction.
func (k *Kernel) findElsewhere(p *Pod) error {
	var wanted []nft.Element
	for _, e := range p.mapped() {
		wanted = append(wanted, e.encode())
	}
	_, found, err := k.conn.Find(table(), wanted)
	for _, e := range found {
		p.leadsElsewhere(e)
	}
	return err
}

// insert adds elements, and makes or repairs the table where it lacks a set.
func (k *Kernel) insert(elements []nft.Element) error {
	err := k.put(elements)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := k.repair(); err != nil {
		return err
	}
	return k.put(elements)
}

// repair makes the table whole and keeps its elements.
func (k *Kernel) repair() error {
	_, err := k.conn.Sync(table(), func(have *nft.Table) (*nft.Table, error) {
		want := skeleton()
		want.Elements = ours(have)
		return want, nil
	})
	return err
}

// takenAttempts bounds how often put tries again after a port was taken, but had no
// holder any more when put looked for it.
const takenAttempts = 3

// put adds elements to the table, one by one, so that an error tells which one the
// kernel refused. The error is unix.ENOENT if the table or a set is absent.
func (k *Kernel) put(elements []nft.Element) error {
	ops := make([]nft.Op, len(elements))
	for i, e := range elements {
		ops[i] = table().AddElements(e)
	}
	for range takenAttempts {
		err := k.conn.Commit(nft.AnyGeneration, ops...)
		var refused *nft.RefusedError
		if !errors.As(err, &refused) || refused.Op == nil || !clash(refused.Errno) {
			return err
		}
		if err := k.holder(refused.Op.Elements[0]); err != nil {
			return err
		}
	}
	return fmt.Errorf("add host ports to %s: %w: other pods open and close it at the same time", table(), ErrTaken)
}

// clash reports whether the kernel refused an element because its key has other data.
// An element with the same data is no error. Before Linux 5.16 the error was EBUSY.
func clash(errno unix.Errno) bool { return errno == unix.EEXIST || errno == unix.EBUSY }

// holder returns a *TakenError if another element has the wanted one's place, nil if
// no element has it any more.
func (k *Kernel) holder(wanted nft.Element) error {
	_, found, err := k.conn.Find(table(), []nft.Element{wanted})
	if err != nil || len(found) == 0 || found[0] == wanted {
		return err
	}
	w, isPort := decode(wanted)
	h, leads := decode(found[0])
	if !isPort || !leads {
		return nil
	}
	return &TakenError{w, h}
}

// deleteAttempts bounds how often an ADD or DEL of another pod may come between the
// read and the deletion. Each time the other process has succeeded, so there is no
// livelock.
const deleteAttempts = 1000

// Delete closes the pod's host ports, and deletes UDP flows to these ports from
// connection tracking. It leaves alone ports that are closed or that another pod has.
// Delete finds the pod's elements by the pod's addresses, so the caller must not have
// released the addresses yet.
func (k *Kernel) Delete(p Pod) error {
	elements := withoutBridges(p.elements())
	if len(elements) == 0 {
		return nil
	}
	if err := k.remove(elements); err != nil {
		return unlessUnsupported(err)
	}
	return deleteFlowsToPods(Elements(p.Mappings, p.Addresses))
}

// unlessUnsupported returns nil if the kernel has no nf_tables. There ADD failed, so
// there is nothing to delete, and DEL has to succeed.
func unlessUnsupported(err error) error {
	if errors.Is(err, ErrUnsupported) {
		return nil
	}
	return err
}

// remove deletes those of the elements that the table has with the same data. The
// kernel deletes by key alone, so the transaction is bound to the generation in
// which the data were read.
func (k *Kernel) remove(elements []nft.Element) error {
	for range deleteAttempts {
		generation, found, err := k.conn.Find(table(), elements)
		if err != nil {
			return err
		}
		var ops []nft.Op
		for _, e := range common(found, elements) {
			ops = append(ops, table().DeleteElements(e))
		}
		err = k.conn.Commit(generation, ops...)
		if !errors.Is(err, unix.ERESTART) {
			return err
		}
	}
	return fmt.Errorf("delete host ports from %s: %w", table(), nft.ErrUnstable)
}

// common lists the elements that are in both.
func common(a, b []nft.Element) []nft.Element {
	in := make(map[nft.Element]bool, len(b))
	for _, e := range b {
		in[e] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(e nft.Element) bool { return !in[e] })
}

// DeleteAddresses closes all host ports that lead to the addresses. It reads
// the whole table, and is for an attachment whose record is damaged or lost.
func (k *Kernel) DeleteAddresses(addresses []netip.Addr) error {
	have, _, err := k.conn.Read(table())
	if err != nil {
		return unlessUnsupported(err)
	}
	elements := slices.DeleteFunc(ours(have), func(e nft.Element) bool { return !slices.Contains(addresses, owner(e)) })
	if err := k.remove(elements); err != nil {
		return err
	}
	return deleteFlowsToPods(decodeAll(elements))
}

// openLocalnet lets the host's own connections from 127.0.0.0/8 leave through the
// bridge. The table's rules exist already; they drop such packets from pods.
func openLocalnet(bridge string, elements []Element) ([]string, error) {
	if !onLocalhost(elements) {
		return nil, nil
	}
	return sysctl.Sync([]sysctl.Parameter{{Path: localnetPath(bridge), Value: "1"}})
}

func localnetPath(bridge string) string { return "net/ipv4/conf/" + bridge + "/route_localnet" }
