package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/overlay-cni/overlay-cni/test/internal/figures"
)

// results holds all measurements.
type results struct {
	Time    time.Time
	Machine figures.Machine
	Options settings
	Columns []column
	Rows    []*row
	Took    time.Duration
}

// settings are the options that say what the figures mean.
type settings struct {
	Rounds, Streams int
	Duration        time.Duration
	Family          string
}

func measure(o options, progress io.Writer) (r *results, err error) {
	start := time.Now()
	r = &results{
		Time: start.UTC().Truncate(time.Second), Machine: figures.ThisMachine(),
		Options: settings{o.rounds, o.streams, o.duration, o.family},
	}
	for _, l := range loads(o.streams) {
		r.Columns = append(r.Columns, l.columns...)
	}
	sets, err := makeSets(o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeSets(sets)) }()
	r.Rows = rowsOf(sets)
	play(o, r.Rows, progress)
	r.Took = time.Since(start).Round(time.Second)
	return r, nil
}

func (r *results) save(file string) error { return figures.Save(file, r) }

// print writes all results as Markdown.
func (r *results) print(w io.Writer) {
	fmt.Fprintln(w, r.Machine)
	fmt.Fprintf(w, "%s, %s: %s, %d rounds of %s for each load\n",
		r.Time.Format("2006-01-02 15:04 MST"), r.Took, r.Options.Family, r.Options.Rounds, r.Options.Duration)
	for _, place := range places {
		here := at(place, r.Rows)
		r.table(w, "Pods on "+place+": medians, and × "+yardstick, here, func(mine, base []float64, c column) string {
			return fmt.Sprintf("%s (%s ×)", figures.Number(figures.Median(mine), c.decimals),
				figures.Number(figures.Median(mine)/figures.Median(base), 2))
		})
		r.table(w, "Pods on "+place+": lowest to highest", here, func(mine, _ []float64, c column) string {
			return figures.Number(figures.Percentile(mine, 0), c.decimals) + " to " + figures.Number(figures.Percentile(mine, 1), c.decimals)
		})
	}
	r.notes(w)
}

// table prints a line for each set, and a cell for each column.
func (r *results) table(w io.Writer, title string, rows []*row, cell func(mine, base []float64, c column) string) {
	heads := []string{"set"}
	for _, c := range r.Columns {
		heads = append(heads, c.Name+", "+c.Unit)
	}
	t := figures.NewTable(w, title, 1, heads...)
	base := rows[slices.IndexFunc(rows, func(r *row) bool { return r.Set == yardstick })]
	for _, row := range rows {
		cells := []string{row.Set}
		for _, c := range r.Columns {
			text := "-"
			if len(row.Values[c.Name]) > 0 {
				text = cell(row.Values[c.Name], base.Values[c.Name], c)
			}
			cells = append(cells, text)
		}
		t.Line(cells...)
	}
	t.End()
}

// notes prints what is missing, and what failed.
func (r *results) notes(w io.Writer) {
	fmt.Fprintln(w)
	for _, row := range r.Rows {
		if row.Note != "" && row.Place == places[0] {
			fmt.Fprintf(w, "%s: %s\n", row.Set, row.Note)
		}
		if row.Failed > 0 {
			fmt.Fprintf(w, "%s, %s: %d turns failed, the first one: %s\n", row.Set, row.Place, row.Failed, row.Error)
		}
	}
}
