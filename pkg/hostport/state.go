package hostport

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// state is the table as it is in the kernel.
type state struct {
	// generation is the number of the last change to the namespace's rules, in
	// whatever table, that the state holds.
	generation uint32
	present    bool
	// objects are everything but elements: what they are called, and a text
	// that is the same for the same thing.
	objects map[string]string
	entries map[slot]string // data by place
}

// wantedObjects are the skeleton as state has it.
func wantedObjects() map[string]string {
	objects := objectSet{}
	for _, m := range skeleton() {
		objects.add(int(m.typ&0xff), m.body)
	}
	return objects
}

// objectSet is filled with what the messages to make things say, or what the
// kernel says when it lists them, which is the same form.
type objectSet map[string]string

func (o objectSet) add(typ int, a attrs) {
	switch typ {
	case unix.NFT_MSG_NEWTABLE:
		o["table"] = canonical(a, unix.NFTA_TABLE_FLAGS)
	case unix.NFT_MSG_NEWSET:
		o["set "+a.get(unix.NFTA_SET_NAME).string()] = canonical(a, unix.NFTA_SET_FLAGS,
			unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN,
			unix.NFTA_SET_TIMEOUT, unix.NFTA_SET_GC_INTERVAL, unix.NFTA_SET_OBJ_TYPE)
	case unix.NFT_MSG_NEWCHAIN:
		o["chain "+a.get(unix.NFTA_CHAIN_NAME).string()] = canonical(a,
			unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE)
	case unix.NFT_MSG_NEWRULE:
		name := "chain " + a.get(unix.NFTA_RULE_CHAIN).string()
		n := 1
		for o.has(fmt.Sprintf("%s, rule %d", name, n)) {
			n++
		}
		o[fmt.Sprintf("%s, rule %d", name, n)] = canonicalRule(a)
	}
}

func (o objectSet) has(name string) bool {
	_, has := o[name]
	return has
}

// canonical writes the attributes of the types. Kernels differ in the order of
// attributes, and in whether they tell those that are zero.
func canonical(a attrs, types ...int) string {
	var parts []string
	for _, typ := range types {
		if v := a.get(typ); strings.Trim(string(v), "\x00") != "" {
			parts = append(parts, fmt.Sprintf("%d=%x", typ, []byte(v)))
		}
	}
	return strings.Join(parts, " ")
}

// canonicalRule writes a rule. Of an instruction all attributes count.
func canonicalRule(a attrs) string {
	parts := []string{fmt.Sprintf("%q", []byte(a.get(unix.NFTA_RULE_USERDATA)))}
	for _, e := range a.get(unix.NFTA_RULE_EXPRESSIONS).all() {
		data := e.get(unix.NFTA_EXPR_DATA)
		types := map[int]bool{}
		for typ := range data.all() {
			types[typ] = true
		}
		parts = append(parts, fmt.Sprintf("%s(%s)",
			e.get(unix.NFTA_EXPR_NAME).string(), canonical(data, slices.Sorted(maps.Keys(types))...)))
	}
	return strings.Join(parts, " ")
}

// wants are the elements that there should be.
type wants struct {
	// claims are who wants a place, in the order of the pods.
	claims map[slot][]string
	// busy are the addresses of pods that are left alone.
	busy map[string]bool
}

func wantsOf(pods []Pod) wants {
	w := wants{claims: map[slot][]string{}, busy: map[string]bool{}}
	for _, p := range pods {
		if p.Busy {
			for _, a := range p.Addresses {
				w.busy[a.String()] = true
			}
			continue
		}
		for _, e := range p.entries() {
			w.add(e)
		}
	}
	return w
}

func (w wants) add(e entry) { w.claims[e.slot] = append(w.claims[e.slot], e.data) }

// resolve gives each place its data. If two claim one, because an ADD was
// killed that was about to be refused, the one that has it keeps it.
func (w wants) resolve(at slot, have map[slot]string) string {
	data, there := have[at]
	if there && slices.Contains(w.claims[at], data) {
		return data
	}
	return w.claims[at][0]
}

// leaveAlone tells whether an entry stays that nobody wants: a bridge keeps its
// protection for as long as it may have route_localnet, which it keeps too.
func (w wants) leaveAlone(e entry) bool {
	return e.set == bridges || w.busy[e.owner().String()]
}

// plan is what turns the table into the wanted one.
type plan struct {
	// rebuild says why the whole table is made anew; empty if it isn't.
	rebuild     []string
	add, remove []entry
}

func (p plan) empty() bool { return len(p.rebuild)+len(p.add)+len(p.remove) == 0 }

// planFor compares. A table is made only if it is to hold something, because a
// nat chain alone makes the kernel track every connection of the host.
func planFor(w wants, have state) plan {
	var p plan
	if have.present {
		p.rebuild = differences(wantedObjects(), have.objects)
	} else if len(w.claims) > 0 {
		p.rebuild = []string{"it was missing"}
	}
	for at := range w.claims {
		data := w.resolve(at, have.entries)
		if old, there := have.entries[at]; !there || old != data {
			p.add = append(p.add, entry{at, data})
		}
	}
	for at, data := range have.entries {
		e := entry{at, data}
		_, wanted := w.claims[at]
		if (wanted && w.resolve(at, have.entries) != data) || (!wanted && !w.leaveAlone(e)) {
			p.remove = append(p.remove, e)
		}
	}
	sortEntries(p.add)
	sortEntries(p.remove)
	return p
}

func sortEntries(entries []entry) {
	slices.SortFunc(entries, func(a, b entry) int {
		return strings.Compare(a.set+a.key+a.data, b.set+b.key+b.data)
	})
}

// differences says in what the objects of two tables differ.
func differences(want, have map[string]string) []string {
	var why []string
	for name, text := range want {
		switch got, there := have[name]; {
		case !there:
			why = append(why, name+" was missing")
		case got != text:
			why = append(why, name+" was altered")
		}
	}
	for name := range have {
		if _, wanted := want[name]; !wanted {
			why = append(why, name+" does not belong there")
		}
	}
	slices.Sort(why)
	return why
}

// messages are the transaction that carries out the plan. Elements that are to
// stay outlive a rebuild.
func (p plan) messages(have state) []message {
	if len(p.rebuild) == 0 {
		return slices.Concat(elementMessages(unix.NFT_MSG_DELSETELEM, p.remove),
			elementMessages(unix.NFT_MSG_NEWSETELEM, p.add))
	}
	var messages []message
	if have.present {
		messages = append(messages, tables(unix.NFT_MSG_DELTABLE, 0, attrs{}.text(unix.NFTA_TABLE_NAME, TableName)))
	}
	stay := maps.Clone(have.entries)
	for _, e := range p.remove {
		delete(stay, e.slot)
	}
	for _, e := range p.add {
		if stay == nil {
			stay = map[slot]string{}
		}
		stay[e.slot] = e.data
	}
	entries := make([]entry, 0, len(stay))
	for at, data := range stay {
		entries = append(entries, entry{at, data})
	}
	return slices.Concat(messages, skeleton(), elementMessages(unix.NFT_MSG_NEWSETELEM, entries))
}

// changes tells what the plan does, for the log.
func (p plan) changes() []string {
	var changes []string
	if len(p.rebuild) > 0 {
		changes = append(changes, fmt.Sprintf("table inet %s rebuilt: %s", TableName, strings.Join(p.rebuild, "; ")))
	}
	for _, list := range []struct {
		did     string
		entries []entry
	}{{"removed", p.remove}, {"added", p.add}} {
		if len(list.entries) > 0 {
			changes = append(changes, fmt.Sprintf("table inet %s: %s %s", TableName, list.did, listed(list.entries)))
		}
	}
	return changes
}

// maxListed is how many elements a log line names.
const maxListed = 4

func listed(entries []entry) string {
	if len(entries) > maxListed {
		return fmt.Sprintf("%d elements", len(entries))
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.String()
	}
	return strings.Join(names, ", ")
}

// String names an entry for a log line.
func (e entry) String() string {
	for _, f := range families() {
		switch {
		case f.maps(e.set):
			el := e.element(f)
			return fmt.Sprintf("host port %s to %s:%d", el.Port(), el.Pod, el.ContainerPort)
		case e.set == f.hairpin():
			return fmt.Sprintf("hairpin of %s", e.owner())
		}
	}
	return "bridge " + strings.TrimRight(e.key, "\x00")
}
