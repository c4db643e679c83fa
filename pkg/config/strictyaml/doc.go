// Package strictyaml reads YAML files that people write by hand, and tells
// them about every mistake at once: file, line, column, key, and what would be
// right.
//
// Invariant: nothing is skipped in silence. A key that is not known, a key
// given twice, a value of another kind, an alias or a second document is a
// mistake, and a Reader that found one has a non-nil Err.
package strictyaml
