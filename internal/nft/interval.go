package nft

import (
	"cmp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/nl"
)

// boundary is an element as the kernel has it. In a set of ranges, each range
// has two boundaries: one at its first key, and an end at the key after its
// last.
type boundary struct {
	key, data string
	end       bool
}

// boundaries are what the kernel has for an element. A range up to the highest
// key has no end.
func (e Element) boundaries() []boundary {
	all := []boundary{{key: e.Key, data: e.Data}}
	if e.Last != "" {
		if after, ok := step(e.Last, 1); ok {
			all = append(all, boundary{key: after, end: true})
		}
	}
	return all
}

func (b boundary) attrs(data bool) nl.Attrs {
	flags := uint32(0)
	if b.end {
		flags |= unix.NFT_SET_ELEM_INTERVAL_END
	}
	var a nl.Attrs
	if b.key == "" {
		flags |= catchAll
	} else {
		a = a.Nest(unix.NFTA_SET_ELEM_KEY, nl.Attrs{}.Bytes(unix.NFTA_DATA_VALUE, []byte(b.key)))
	}
	if flags != 0 {
		a = a.Uint32BE(unix.NFTA_SET_ELEM_FLAGS, flags)
	}
	if data && b.data != "" {
		a = a.Nest(unix.NFTA_SET_ELEM_DATA, nl.Attrs{}.Bytes(unix.NFTA_DATA_VALUE, []byte(b.data)))
	}
	return a
}

// catchAll is NFT_SET_ELEM_CATCHALL: the element for all keys that the set lacks.
const catchAll = 2

// decodeBoundaries reads the elements in a message of the kernel.
func decodeBoundaries(a nl.Attrs) []boundary {
	var all []boundary
	for _, v := range a.Get(unix.NFTA_SET_ELEM_LIST_ELEMENTS).Attrs().All() {
		e := v.Attrs()
		data := e.Get(unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VALUE)
		all = append(all, boundary{
			key: string(e.Get(unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)), data: string(data),
			end: e.Get(unix.NFTA_SET_ELEM_FLAGS).Uint32BE()&unix.NFT_SET_ELEM_INTERVAL_END != 0,
		})
	}
	return all
}

// elementsOf are the elements that the boundaries stand for.
func elementsOf(s Set, all []boundary) []Element {
	if s.intervals() {
		return ranges(s.Name, all)
	}
	elements := make([]Element, len(all))
	for i, b := range all {
		elements[i] = Element{Set: s.Name, Key: b.key, Data: b.data}
	}
	return elements
}

// ranges pairs boundaries, in whatever order the kernel gave them. One without a
// counterpart becomes an element without Last.
//
// nft puts an end at the lowest key into a set when it adds the first element.
// This boundary ends nothing and matches nothing, and is left out.
func ranges(set string, all []boundary) []Element {
	slices.SortFunc(all, boundary.compare)
	var elements []Element
	var open *boundary
	for i, b := range all {
		before, exists := step(b.key, -1)
		switch {
		case b.end && open != nil:
			elements = append(elements, Element{Set: set, Key: open.key, Last: before, Data: open.data})
			open = nil
		case b.end && exists, !b.end && open != nil, b.key == "":
			elements = append(elements, Element{Set: set, Key: b.key})
		case !b.end:
			open = &all[i]
		}
	}
	if open != nil {
		highest := strings.Repeat("\xff", len(open.key))
		elements = append(elements, Element{Set: set, Key: open.key, Last: highest, Data: open.data})
	}
	return elements
}

// compare orders boundaries by key. If a range ends where the next one begins,
// its end comes first.
func (b boundary) compare(o boundary) int {
	if c := cmp.Compare(b.key, o.key); c != 0 || b.end == o.end {
		return c
	}
	if b.end {
		return -1
	}
	return 1
}

// step is the big-endian number in key, plus 1 or minus 1. It is false if there
// is no such number: after the highest and before the lowest.
func step(key string, by int) (string, bool) {
	b := []byte(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte(int(b[i]) + by)
		if carried := (by > 0 && b[i] == 0) || (by < 0 && b[i] == 0xff); !carried {
			return string(b), true
		}
	}
	return "", false
}
