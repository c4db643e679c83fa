package hostport

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// Kernel is the table in a network namespace. It is for one goroutine at a
// time.
type Kernel struct {
	conn *conn
}

// Open opens the network namespace of the calling thread.
func Open() (*Kernel, error) {
	c, err := dial()
	if err != nil {
		return nil, explain("open a netlink socket to netfilter", err)
	}
	return &Kernel{c}, nil
}

// Close closes the socket.
func (k *Kernel) Close() { k.conn.close() }

// The tasks, as errors name them.
const (
	adding   = "add host ports to table inet " + TableName
	deleting = "delete host ports from table inet " + TableName
	reading  = "read table inet " + TableName
	changing = "change table inet " + TableName
)

// Add opens the pod's host ports, all or none, and forgets what the kernel
// remembers of UDP that came to them before. What the pod has already is fine,
// by another network too. If another pod has one of them, the error is a
// *TakenError.
//
// Where the table is there, which is so for all but the first pod, it is one
// message to the kernel and one back.
func (k *Kernel) Add(p Pod) error {
	entries := p.entries()
	if len(entries) == 0 {
		return nil
	}
	k.conn.prepare(len(entries))
	err := k.insert(entries)
	var taken *TakenError
	if errors.As(err, &taken) && p.leadsElsewhere(taken.Wanted.entry().slot, taken.Holder.Pod) {
		if err := k.findElsewhere(&p); err != nil {
			return err
		}
		return k.Add(p) // the rest
	}
	if err != nil {
		return err
	}
	elements := p.elements()
	if _, err := openLocalnet(p.Bridge, elements); err != nil {
		return err
	}
	return k.forgetBefore(elements)
}

// findElsewhere looks for all ports that lead to siblings at once: by clashes it
// would take a transaction for each.
func (k *Kernel) findElsewhere(p *Pod) error {
	var wanted []entry
	for _, e := range p.elements() {
		wanted = append(wanted, e.entry())
	}
	_, found, err := k.lookUp(wanted)
	if err != nil {
		return err
	}
	for _, e := range found {
		p.leadsElsewhere(e.slot, e.owner())
	}
	return nil
}

// insert adds entries, and makes the table where there is none.
func (k *Kernel) insert(entries []entry) error {
	for _, prepare := range []func() error{k.nothing, k.create, k.mend} {
		if err := prepare(); err != nil {
			return err
		}
		err := k.put(entries)
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return fmt.Errorf("%s: another program deletes it as fast as it is made", adding)
}

func (k *Kernel) nothing() error { return nil }

// create makes the table, unless another process is faster.
func (k *Kernel) create() error {
	err := k.conn.transact(anyGeneration, skeleton())
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return made(err)
}

// made explains an error of making the table. That refers to nothing that it
// did not make before, so what is not found is the kernel's.
func made(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("make table inet %s: %w (%w)", TableName, ErrUnsupported, err)
	}
	if err != nil {
		return explain("make table inet "+TableName, err)
	}
	return nil
}

// takenAttempts bounds how often a port is tried that was taken, and free when
// its holder was looked for.
const takenAttempts = 3

// put adds entries to the table. The error is ENOENT if it isn't there.
func (k *Kernel) put(entries []entry) error {
	messages := elementMessages(unix.NFT_MSG_NEWSETELEM, entries)
	for range takenAttempts {
		err := k.conn.transact(anyGeneration, messages)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return err
		}
		var r *refused
		if !errors.As(err, &r) || r.index == whole || !clash(r.errno) {
			return explain(adding, err)
		}
		taken, err := k.holder(entries[r.index])
		if err != nil {
			return err
		}
		if taken != nil {
			return taken
		}
	}
	return fmt.Errorf("%s: %w: others take and leave it at the same time", adding, ErrTaken)
}

// clash is what the kernel says of an element whose key is there with other
// data; adding the very same is no error. It was EBUSY before Linux 5.16.
func clash(errno unix.Errno) bool { return errno == unix.EEXIST || errno == unix.EBUSY }

// holder finds out who has the wanted entry's place; nil means nobody.
func (k *Kernel) holder(wanted entry) (*TakenError, error) {
	_, found, err := k.lookUp([]entry{wanted})
	if err != nil || len(found) == 0 || found[0] == wanted {
		return nil, err
	}
	for _, f := range families() {
		if f.maps(wanted.set) {
			return &TakenError{wanted.element(f), found[0].element(f)}, nil
		}
	}
	return nil, nil
}

// deleteAttempts bounds how often an ADD or DEL of another pod may come between
// look and deletion. Each time one of them got its work done.
const deleteAttempts = 1000

// Delete closes the pod's host ports, and forgets what the kernel remembers of
// UDP that came to them. What is not there, or is another pod's, is left alone.
// The caller has to hold the pod's addresses, for it is by them that the pod's
// elements are known.
func (k *Kernel) Delete(p Pod) error {
	entries := withoutBridges(p.entries())
	if len(entries) == 0 {
		return nil
	}
	k.conn.prepare(len(entries))
	if err := k.remove(entries); err != nil {
		return unlessNone(err)
	}
	return k.forgetAfter(Elements(p.Mappings, p.Addresses))
}

// unlessNone is no error where there is nothing to delete, because the kernel
// has no nf_tables: ADD failed there, and DEL has to succeed.
func unlessNone(err error) error {
	if errors.Is(err, ErrUnsupported) {
		return nil
	}
	return err
}

// remove deletes those of the entries that are there with the same data. The
// kernel deletes by key alone; so the transaction is bound to the generation of
// the rules in which the data were seen.
func (k *Kernel) remove(entries []entry) error {
	for range deleteAttempts {
		generation, found, err := k.lookUp(entries)
		if err != nil {
			return err
		}
		ours := common(found, entries)
		if len(ours) == 0 {
			return nil
		}
		err = k.conn.transact(generation, elementMessages(unix.NFT_MSG_DELSETELEM, ours))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ERESTART) {
			return explain(deleting, err)
		}
	}
	return fmt.Errorf("%s: %w", deleting, ErrUnstable)
}

// DeleteAddresses closes all host ports that lead to the addresses. It reads
// the whole table, and is for an attachment whose record is damaged or lost.
func (k *Kernel) DeleteAddresses(addresses []netip.Addr) error {
	s, err := k.read()
	if err != nil {
		return unlessNone(err)
	}
	var ours []entry
	for at, data := range s.entries {
		if e := (entry{at, data}); slices.Contains(addresses, e.owner()) {
			ours = append(ours, e)
		}
	}
	if err := k.remove(ours); err != nil {
		return err
	}
	return k.forgetAfter(elementsOf(ours))
}

// lookUp returns the generation of the rules and those of the entries' places
// that are taken, with the data that is there.
func (k *Kernel) lookUp(entries []entry) (uint32, []entry, error) {
	var generation uint32
	var found []entry
	for start := 0; start < len(entries); start += chunk {
		part := entries[start:min(start+chunk, len(entries))]
		// Each part asks for the generation first; that of the first part is
		// not younger than anything seen.
		answers, err := k.conn.ask(slices.Concat(
			[]message{generationMessage()}, elementMessages(unix.NFT_MSG_GETSETELEM, part)))
		if err != nil {
			return 0, nil, explain(reading, err)
		}
		g, err := generationIn(answers[0])
		if err != nil {
			return 0, nil, err
		}
		if start == 0 {
			generation = g
		}
		for i, a := range answers[1:] {
			switch errno := a.errno(); errno {
			case 0:
				found = append(found, decodeElements(part[i].set, a.body())...)
			case unix.ENOENT:
			default:
				return 0, nil, explain(reading, errno)
			}
		}
	}
	return generation, found, nil
}

// generation is the number of the last change to the namespace's rules.
func (k *Kernel) generation() (uint32, error) {
	answers, err := k.conn.ask([]message{generationMessage()})
	if err != nil {
		return 0, explain(reading, err)
	}
	return generationIn(answers[0])
}

func generationMessage() message { return tables(unix.NFT_MSG_GETGEN, 0, nil) }

func generationIn(a answer) (uint32, error) {
	switch errno := a.errno(); errno {
	case 0:
		return a.body().get(unix.NFTA_GEN_ID).number(), nil
	case unix.EINVAL: // how a kernel without nf_tables says it
		return 0, explain(reading, unix.EOPNOTSUPP)
	default:
		return 0, explain(reading, errno)
	}
}

// openLocalnet lets the host's own connections from 127.0.0.0/8 leave by the
// bridge. The table's rules, which keep pods from using that the other way
// round, are there by now.
func openLocalnet(bridge string, elements []Element) ([]string, error) {
	if !onLocalhost(elements) {
		return nil, nil
	}
	return sysctl.Sync([]sysctl.Parameter{{Path: localnetPath(bridge), Value: "1"}})
}

func localnetPath(bridge string) string { return "net/ipv4/conf/" + bridge + "/route_localnet" }
