package strictyaml

import (
	"fmt"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/typo"
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
	limit := typo.Limit(name)
	best, found := "", false
	for _, full := range known {
		_, last, _ := cutLast(full)
		d := min(typo.Count(name, last), typo.Count(join(path, name), full), typo.Count(name, full))
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
