package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Mistake is something wrong in a file, with its place.
type Mistake struct {
	File string
	// Line and Column count from 1. Column is 0 if only the line is known. Line is 0
	// if the mistake concerns the file as a whole.
	Line, Column int
	// Key is the full name of the value, such as vxlan.vni or nodes[0].name. It is
	// empty if the mistake does not concern a single value.
	Key string
	Err error
}

// Error is "file:line:column: key: what is wrong and what would be right".
func (m *Mistake) Error() string {
	var b strings.Builder
	b.WriteString(m.File)
	for _, n := range []int{m.Line, m.Column} {
		if n > 0 {
			fmt.Fprintf(&b, ":%d", n)
		}
	}
	b.WriteString(": ")
	if m.Key != "" {
		b.WriteString(m.Key + ": ")
	}
	b.WriteString(m.Err.Error())
	return b.String()
}

// Unwrap returns the error without its place, for errors.Is and errors.As.
func (m *Mistake) Unwrap() error { return m.Err }

// Reader reads the values of one file and collects the mistakes.
type Reader struct {
	file     string
	mistakes []*Mistake
}

// NewReader returns a Reader. Its mistakes name the file by the given name.
func NewReader(file string) *Reader { return &Reader{file: file} }

// Add records that the value at node is wrong. A nil node stands for the file
// as a whole.
func (r *Reader) Add(node *yaml.Node, key string, err error) {
	m := &Mistake{File: r.file, Key: key, Err: err}
	if node != nil {
		m.Line, m.Column = node.Line, node.Column
	}
	r.mistakes = append(r.mistakes, m)
}

func (r *Reader) addf(node *yaml.Node, key, format string, args ...any) {
	r.Add(node, key, fmt.Errorf(format, args...))
}

// Len is the number of mistakes so far.
func (r *Reader) Len() int { return len(r.mistakes) }

// Mistakes returns the mistakes so far, sorted by line and column.
func (r *Reader) Mistakes() []error {
	sorted := slices.Clone(r.mistakes)
	slices.SortStableFunc(sorted, func(a, b *Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	errs := make([]error, len(sorted))
	for i, m := range sorted {
		errs[i] = m
	}
	return errs
}
