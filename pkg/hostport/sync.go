package hostport

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/sysctl"
)

// Want is what the table follows from.
type Want struct {
	// Bridge is the daemon's own.
	Bridge string
	// Pods are all attachments with mappings, the oldest first.
	Pods []Pod
}

// syncAttempts bounds how often a Sync begins again because the rules changed
// meanwhile. A read takes less than a millisecond, 20 with 5,000 elements.
const syncAttempts = 50

// unknown is how many elements a transaction may have that is not planned yet.
const unknown = 1 << 16

// Sync makes the table what list says and tells what it changed. list is called
// after the table was read, and again each time that it has to be read again;
// see the package's description for why this order matters.
func (k *Kernel) Sync(list func() (Want, error)) ([]string, error) {
	k.conn.prepare(unknown)
	var changes []string
	var want Want
	err := k.settle(func(have state) (plan, error) {
		var err error
		want, err = list()
		return planFor(want.claims(), have), err
	}, func(p plan) error {
		changes = append(changes, p.changes()...)
		return errors.Join(k.forgetBefore(elementsOf(p.add)), k.forgetAfter(elementsOf(p.remove)))
	})
	if err != nil {
		return changes, err
	}
	opened, err := want.openLocalnet()
	return append(changes, opened...), err
}

// claims are the pods' and, for as long as the daemon's own bridge has
// route_localnet, which outlives the last pod with ports, its protection.
func (w Want) claims() wants {
	claims := wantsOf(w.Pods)
	if v, err := sysctl.Get(localnetPath(w.Bridge)); err == nil && v == "1" {
		claims.add(localnet(w.Bridge))
	}
	return claims
}

func (w Want) openLocalnet() ([]string, error) {
	var changes []string
	var errs []error
	for _, p := range w.Pods {
		if !p.Busy {
			opened, err := openLocalnet(p.Bridge, Elements(p.Mappings, p.Addresses))
			changes, errs = append(changes, opened...), append(errs, err)
		}
	}
	return changes, errors.Join(errs...)
}

// mend makes a damaged table whole and keeps its elements.
func (k *Kernel) mend() error {
	k.conn.prepare(unknown)
	return k.settle(func(have state) (plan, error) {
		var p plan
		if have.present {
			p.rebuild = differences(wantedObjects(), have.objects)
		} else {
			p.rebuild = []string{"it was missing"}
		}
		return p, nil
	}, func(plan) error { return nil })
}

// settle reads, plans and applies until there is nothing to do. Each
// transaction is bound to the generation that was read, so nothing that others
// do in between is overwritten.
func (k *Kernel) settle(decide func(state) (plan, error), applied func(plan) error) error {
	for range syncAttempts {
		have, err := k.read()
		if err != nil {
			return err
		}
		p, err := decide(have)
		if err != nil || p.empty() {
			return err
		}
		err = k.conn.transact(have.generation, p.messages(have))
		if errors.Is(err, unix.ERESTART) {
			continue
		}
		if err != nil {
			if len(p.rebuild) > 0 {
				return made(err)
			}
			return explain(changing, err)
		}
		if err := applied(p); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", changing, ErrUnstable)
}

// read returns the table as it is. It takes several requests; if the number of
// the last change is another afterwards, the answers may not belong together.
func (k *Kernel) read() (state, error) {
	for range syncAttempts {
		before, err := k.generation()
		if err != nil {
			return state{}, err
		}
		s, readErr := k.readTable()
		after, err := k.generation()
		if err != nil {
			return state{}, err
		}
		if before != after || errors.Is(readErr, errInterrupted) {
			continue
		}
		if readErr != nil {
			return state{}, explain(reading, readErr)
		}
		s.generation = after
		return s, nil
	}
	return state{}, fmt.Errorf("%s: %w", reading, ErrUnstable)
}

func (k *Kernel) readTable() (state, error) {
	answers, err := k.conn.ask([]message{tables(unix.NFT_MSG_GETTABLE, 0, attrs{}.text(unix.NFTA_TABLE_NAME, TableName))})
	if err != nil {
		return state{}, err
	}
	if errno := answers[0].errno(); errno == unix.ENOENT {
		return state{}, nil
	} else if errno != 0 {
		return state{}, errno
	}
	objects := objectSet{}
	objects.add(unix.NFT_MSG_NEWTABLE, answers[0].body())
	if err := k.readObjects(objects); err != nil {
		return state{}, err
	}
	s := state{present: true, objects: objects, entries: map[slot]string{}}
	return s, k.readEntries(s)
}

// readObjects lists chains, rules and sets. The kernel takes the table's name
// as a filter for all but chains.
func (k *Kernel) readObjects(objects objectSet) error {
	for _, list := range []struct{ get, add, table int }{
		{unix.NFT_MSG_GETSET, unix.NFT_MSG_NEWSET, unix.NFTA_SET_TABLE},
		{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_NEWCHAIN, unix.NFTA_CHAIN_TABLE},
		{unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, unix.NFTA_RULE_TABLE},
	} {
		err := k.conn.dump(tables(list.get, 0, attrs{}.text(list.table, TableName)), func(a attrs) {
			if a.get(list.table).string() == TableName {
				objects.add(list.add, a)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readEntries lists the elements of the sets that are as they should be.
func (k *Kernel) readEntries(s state) error {
	want := wantedObjects()
	for _, set := range sets() {
		name := "set " + set.name
		if s.objects[name] != want[name] {
			continue
		}
		err := k.conn.dump(tables(unix.NFT_MSG_GETSETELEM, 0, inSet(set.name)), func(a attrs) {
			for _, e := range decodeElements(set.name, a) {
				s.entries[e.slot] = e.data
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Check compares the pod's part of the table and the table's rules with the
// kernel and returns what differs, a phrase each, empty if nothing does.
func (k *Kernel) Check(p Pod) ([]string, error) {
	if len(p.entries()) == 0 {
		return nil, nil
	}
	s, err := k.read()
	if err != nil {
		return nil, err
	}
	if !s.present {
		return []string{"table inet " + TableName + " is gone"}, nil
	}
	var diffs []string
	for _, d := range differences(wantedObjects(), s.objects) {
		diffs = append(diffs, fmt.Sprintf("table inet %s: %s", TableName, d))
	}
	for _, e := range p.elements() {
		if data, there := s.entries[e.entry().slot]; there {
			p.leadsElsewhere(e.entry().slot, entry{e.entry().slot, data}.owner())
		}
	}
	for _, e := range p.entries() {
		switch data, there := s.entries[e.slot]; {
		case !there:
			diffs = append(diffs, fmt.Sprintf("table inet %s: %s is gone", TableName, e))
		case data != e.data:
			diffs = append(diffs, fmt.Sprintf("table inet %s: there is %s instead of %s", TableName, entry{e.slot, data}, e))
		}
	}
	if onLocalhost(p.elements()) {
		if v, err := sysctl.Get(localnetPath(p.Bridge)); err != nil || v != "1" {
			diffs = append(diffs, fmt.Sprintf("sysctl net.ipv4.conf.%s.route_localnet is %q, not 1", p.Bridge, v))
		}
	}
	return slices.Clip(diffs), nil
}
