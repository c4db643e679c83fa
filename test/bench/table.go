package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/test/internal/figures"
)

// print writes all results as Markdown.
func (r *results) print(w io.Writer) {
	fmt.Fprintln(w, r.Machine.Machine)
	for _, name := range slices.Sorted(maps.Keys(r.Machine.Versions)) {
		fmt.Fprintf(w, "%s: %s\n", name, r.Machine.Versions[name])
	}
	fmt.Fprintf(w, "%s, %s: %d rounds of %d pods one after the other and %d at once\n",
		r.Time.Format("2006-01-02 15:04 MST"), r.Took, r.Options.Rounds, r.Options.Pods, r.Options.Parallel)
	r.table(w, "One after the other", func(r *row) *series { return &r.Sequential })
	r.table(w, fmt.Sprintf("%d at once", r.Options.Parallel), func(r *row) *series { return &r.Parallel })
	r.rates(w)
	r.scaling(w)
	fmt.Fprintf(w, "\noverlay-cni: file %.1f MB, peak memory of ADD %.1f MB\n", megabytes(r.Plugin.File), megabytes(r.Plugin.PeakMemory))
	r.notes(w)
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// table prints the times of a mode.
func (r *results) table(w io.Writer, title string, mode func(*row) *series) {
	t := figures.NewTable(w, title+" (milliseconds for a pod)", 1,
		"set", "ADD median", "p99", "x floor", "overlay-cni is", "DEL median", "p99", "x floor", "overlay-cni is")
	base := mode(r.row(floorSet))
	for _, row := range r.Rows {
		s, ours := mode(row), mode(r.ours(row.Name))
		if row.Note != "" {
			t.Line(row.Name, "-", "-", "-", "-", "-", "-", "-", "-")
			continue
		}
		t.Line(row.Name,
			number(median(s.Add)), number(worst(s.Add)), ratio(median(s.Add), median(base.Add)), r.faster(row, median(s.Add), median(ours.Add)),
			number(median(s.Del)), number(worst(s.Del)), ratio(median(s.Del), median(base.Del)), r.faster(row, median(s.Del), median(ours.Del)))
	}
	t.End()
}

// rates prints how many pods a second are connected when all come at once.
func (r *results) rates(w io.Writer) {
	t := figures.NewTable(w, fmt.Sprintf("%d at once (pods a second, median of the rounds)", r.Options.Parallel), 1,
		"set", "ADD", "overlay-cni is", "DEL", "overlay-cni is")
	for _, row := range r.Rows {
		s, ours := &row.Parallel, &r.ours(row.Name).Parallel
		if row.Note == "" {
			// The other way round than with times: more is better.
			t.Line(row.Name,
				fmt.Sprintf("%.0f", median(s.AddRate)), r.faster(row, median(ours.AddRate), median(s.AddRate)),
				fmt.Sprintf("%.0f", median(s.DelRate)), r.faster(row, median(ours.DelRate), median(s.DelRate)))
		}
	}
	t.End()
}

// notes prints what is missing, and what failed.
func (r *results) notes(w io.Writer) {
	for _, row := range r.Rows {
		if row.Note != "" {
			fmt.Fprintf(w, "%s: %s\n", row.Name, row.Note)
		}
		if strings.HasPrefix(row.Note, "not installed") && row.Name == bridgeSet {
			fmt.Fprintln(w, "  install it (Debian: apt-get install containernetworking-plugins iptables), or name its folder with --cni-dir")
		}
		for _, s := range []*series{&row.Sequential, &row.Parallel} {
			if s.Failed > 0 {
				fmt.Fprintf(w, "%s: %d calls failed, the first one: %s\n", row.Name, s.Failed, s.Error)
			}
		}
	}
}

// row returns the row with a name, or an empty row.
func (r *results) row(name string) *row {
	for _, row := range r.Rows {
		if row.Name == name {
			return row
		}
	}
	return &row{}
}

// ours returns overlay-cni's row to compare another row with: with host ports if the
// other row has them.
func (r *results) ours(other string) *row {
	if strings.HasSuffix(other, withPort) {
		return r.row(ourSet + withPort)
	}
	return r.row(ourSet)
}

// faster compares overlay-cni with another plugin's row.
func (r *results) faster(row *row, theirs, ours float64) string {
	if strings.HasPrefix(row.Name, ourSet) || slices.Contains([]string{floorSet, librarySet, processSet, boundSet, startSet}, row.Name) || math.IsNaN(theirs/ours) {
		return ""
	}
	return fmt.Sprintf("%.1f x faster", theirs/ours)
}

func number(v float64) string { return figures.Number(v, 2) }

func ratio(a, b float64) string { return number(a / b) }
