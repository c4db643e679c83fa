package hostport

import (
	"golang.org/x/sys/unix"
)

// elementMessages are one message for each entry, so that an error tells which
// it is about.
func elementMessages(typ int, entries []entry) []message {
	flags := 0
	if typ == unix.NFT_MSG_NEWSETELEM {
		flags = unix.NLM_F_CREATE
	}
	messages := make([]message, len(entries))
	for i, e := range entries {
		element := attrs{}.nest(unix.NFTA_SET_ELEM_KEY, attrs{}.bytes(unix.NFTA_DATA_VALUE, []byte(e.key)))
		if e.data != "" && typ == unix.NFT_MSG_NEWSETELEM {
			element = element.nest(unix.NFTA_SET_ELEM_DATA, attrs{}.bytes(unix.NFTA_DATA_VALUE, []byte(e.data)))
		}
		messages[i] = tables(typ, flags, inSet(e.set).
			nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, attrs{}.nest(unix.NFTA_LIST_ELEM, element)))
	}
	return messages
}

func inSet(set string) attrs {
	return attrs{}.text(unix.NFTA_SET_ELEM_LIST_TABLE, TableName).text(unix.NFTA_SET_ELEM_LIST_SET, set)
}

// decodeElements reads what the kernel tells of elements of a set.
func decodeElements(set string, body attrs) []entry {
	var entries []entry
	for _, e := range body.get(unix.NFTA_SET_ELEM_LIST_ELEMENTS).all() {
		entries = append(entries, entry{
			slot: slot{set, string(e.get(unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE))},
			data: string(e.get(unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VALUE)),
		})
	}
	return entries
}

// common lists what is in both.
func common(a, b []entry) []entry {
	in := make(map[entry]bool, len(b))
	for _, e := range b {
		in[e] = true
	}
	var both []entry
	for _, e := range a {
		if in[e] {
			both = append(both, e)
		}
	}
	return both
}

// withoutBridges leaves out what isn't the pod's alone.
func withoutBridges(entries []entry) []entry {
	var others []entry
	for _, e := range entries {
		if e.set != bridges {
			others = append(others, e)
		}
	}
	return others
}

// elementsOf are those of the entries that lead to pods.
func elementsOf(entries []entry) []Element {
	var elements []Element
	for _, e := range entries {
		for _, f := range families() {
			if f.maps(e.set) {
				elements = append(elements, e.element(f))
			}
		}
	}
	return elements
}
