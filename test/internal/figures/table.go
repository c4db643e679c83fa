package figures

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Table is a Markdown table with aligned columns.
type Table struct{ w *tabwriter.Writer }

// NewTable writes a title and the heads of the columns. The first left columns
// hold text, the others figures.
func NewTable(w io.Writer, title string, left int, columns ...string) Table {
	fmt.Fprintf(w, "\n### %s\n\n", title)
	t := Table{tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)}
	t.Line(columns...)
	t.Line(append(slices.Repeat([]string{"---"}, left), slices.Repeat([]string{"---:"}, len(columns)-left)...)...)
	return t
}

// Line adds a row.
func (t Table) Line(cells ...string) { fmt.Fprintf(t.w, "| %s\t|\n", strings.Join(cells, "\t| ")) }

// End writes the rows.
func (t Table) End() { _ = t.w.Flush() }
