package strictyaml

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Mapping is a place where a mapping with these keys is expected.
type Mapping struct {
	Node *yaml.Node
	// Path is the full name of the place: vxlan, nodes[0], empty for the root.
	Path string
	// Keys are the keys that may be in it.
	Keys []string
	// Known are the full names that "did you mean" may suggest. Nil: Keys.
	Known []string
	// Removed maps the full names of keys that no longer exist to advice.
	Removed map[string]string
}

// Value is a value in a file, with its full name.
type Value struct {
	Key  string
	Node *yaml.Node
}

// Fields yields the values of the known keys in the order of the file. It records
// everything else in the mapping as a mistake. A null counts as a mapping without
// fields: that is a mapping whose lines are all commented out.
func (r *Reader) Fields(m Mapping) iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if !r.isMapping(m) {
			return
		}
		first := map[string]int{} // the line of each key
		for pair := range slices.Chunk(m.Node.Content, 2) {
			if !r.checkKey(m, pair[0], first) {
				continue
			}
			name := pair[0].Value
			if !yield(name, Value{Key: join(m.Path, name), Node: pair[1]}) {
				return
			}
		}
	}
}

func (r *Reader) isMapping(m Mapping) bool {
	if isNull(m.Node) {
		return false
	}
	if m.Node.Kind == yaml.MappingNode {
		return true
	}
	r.addf(m.Node, m.Path, "expected a mapping with the keys %s, found %s",
		strings.Join(m.Keys, ", "), describe(m.Node))
	return false
}

// checkKey reports whether the key is known and was not given before, and records its
// line.
func (r *Reader) checkKey(m Mapping, key *yaml.Node, first map[string]int) bool {
	if key.Kind != yaml.ScalarNode || !slices.Contains(m.Keys, key.Value) {
		r.addf(key, m.Path, "unknown key %s: %s", describe(key), m.suggest(key.Value))
		return false
	}
	if line, twice := first[key.Value]; twice {
		r.addf(key, join(m.Path, key.Value), "given twice, first in line %d: keep one", line)
		return false
	}
	first[key.Value] = key.Line
	return true
}

// Text returns the text of a single value. It ignores YAML's types: 1 and "1" have
// the same text. want says in a message what was expected.
func (r *Reader) Text(v Value, want string) (string, bool) {
	switch {
	case isNull(v.Node):
		r.addf(v.Node, v.Key, "has no value: write %s, or remove the line", want)
	case v.Node.Kind != yaml.ScalarNode:
		r.addf(v.Node, v.Key, "expected %s, found %s", want, describe(v.Node))
	case !isPlain(v.Node):
		r.addf(v.Node, v.Key, "expected %s, found the tag %s: remove the tag", want, Quote(v.Node.Tag))
	default:
		return v.Node.Value, true
	}
	return "", false
}

// Items yields the values of a list. want says in a message what the list should
// hold.
func (r *Reader) Items(v Value, want string) iter.Seq2[int, Value] {
	return func(yield func(int, Value) bool) {
		if !r.isList(v, want) {
			return
		}
		for i, item := range v.Node.Content {
			if !yield(i, Value{Key: fmt.Sprintf("%s[%d]", v.Key, i), Node: item}) {
				return
			}
		}
	}
}

func (r *Reader) isList(v Value, want string) bool {
	switch {
	case isNull(v.Node):
		r.addf(v.Node, v.Key, "has no value: expected a list of %s", want)
	case v.Node.Kind != yaml.SequenceNode:
		r.addf(v.Node, v.Key, "expected a list of %s, found %s", want, describe(v.Node))
	}
	return v.Node.Kind == yaml.SequenceNode
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// isPlain reports whether the text is the value. With the tag !!binary, or another
// program's tag, the text stands for something else.
func isPlain(n *yaml.Node) bool {
	return slices.Contains([]string{"!!str", "!!int", "!!float", "!!bool", "!!timestamp", "!!merge"}, n.ShortTag())
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "the alias *" + n.Value + ": write the value itself"
	default:
		return Quote(n.Value)
	}
}

// maxQuoted, in bytes, keeps a message readable when a value is a whole file.
const maxQuoted = 80

// Quote quotes a value for a message, and cuts a long one.
func Quote(s string) string {
	if len(s) > maxQuoted {
		return fmt.Sprintf("%q...", s[:maxQuoted])
	}
	return fmt.Sprintf("%q", s)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
