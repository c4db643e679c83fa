// Package strictyaml reads YAML files that people write by hand. It reports all
// mistakes of a file at once, each with file, line, column, key, and what would be
// right.
//
// Invariant: nothing is skipped in silence. An unknown key, a key given twice, a
// value of another kind, an alias or a second document is a mistake, and
// Reader.Mistakes returns each of them.
package strictyaml
