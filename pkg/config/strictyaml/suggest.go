package strictyaml

import (
	"fmt"
	"slices"
	"strings"
)

// suggest returns advice about an unknown key, such as a similar key that is known.
func (m Mapping) suggest(name string) string {
	if advice, removed := m.Removed[join(m.Path, name)]; removed {
		return advice
	}
	known := m.Known
	if known == nil {
		known = m.Keys
	}
	// The key may be right but in the wrong place: vxlan.vni written as one word, or
	// vni written outside of the section vxlan.
	for _, full := range known {
		section, last, nested := cutLast(full)
		if nested && (name == full || name == last) {
			return fmt.Sprintf("write %q inside the mapping %q", last, section)
		}
	}
	if best, ok := nearest(name, m.Path, known); ok {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "the keys here are " + strings.Join(m.Keys, ", ")
}

// nearest returns the known name that differs from name by the fewest typos. It
// compares both full names and last words. A name with more than one typo in three
// letters is not similar.
func nearest(name, path string, known []string) (string, bool) {
	limit := max(1, len(name)/3)
	best, found := "", false
	for _, full := range known {
		_, last, _ := cutLast(full)
		d := min(typos(name, last), typos(join(path, name), full), typos(name, full))
		if d <= limit {
			best, limit, found = full, d-1, true
		}
	}
	return best, found
}

// cutLast splits vxlan.vni into vxlan and vni.
func cutLast(full string) (section, last string, nested bool) {
	i := strings.LastIndexByte(full, '.')
	if i < 0 {
		return "", full, false
	}
	return full[:i], full[i+1:], true
}

// maxTyped, in bytes, bounds the work for a key that is much longer than a word.
const maxTyped = 64

// typos returns how many letters were added, left out, replaced or swapped between a
// and b. Case does not count. The measure is the restricted Damerau-Levenshtein
// distance (optimal string alignment), which edits no substring twice.
func typos(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if max(len(a), len(b)) > maxTyped {
		return max(len(a), len(b))
	}
	// rows[i][j] is the distance of a[:i] and b[:j].
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			rows[i][j] = step(rows, a[:i], b[:j])
		}
	}
	return rows[len(a)][len(b)]
}

// step returns the distance of a and b from the distances of their prefixes in rows.
func step(rows [][]int, a, b string) int {
	i, j := len(a), len(b)
	replaced := rows[i-1][j-1]
	if a[i-1] != b[j-1] {
		replaced++
	}
	best := slices.Min([]int{rows[i-1][j] + 1, rows[i][j-1] + 1, replaced})
	if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
		best = min(best, rows[i-2][j-2]+1)
	}
	return best
}
