package main

import (
	"fmt"
	"io"
	"time"

	"github.com/overlay-cni/overlay-cni/test/internal/figures"
)

// results are all that was measured. Times are milliseconds.
type results struct {
	Time    time.Time
	Took    string
	Machine string
	Starts  int
	Changes int
	Idle    string
	Rows    []*result
}

// result is a program with one number of peers.
type result struct {
	Registry, Program string
	Peers             int
	// Start is from the start of the process until the last entry of the last
	// peer is made, StartCPU what it took until it rested, Peak megabytes.
	Start, StartCPU, Peak []float64
	// RestartCPU is with nothing to do but to look.
	RestartCPU float64
	// Change is from the write to the entry; ChangeCPU is of one, on average.
	Change    []float64
	ChangeCPU float64
	Join      *join `json:",omitempty"`
	// Idle and Heartbeats are percent of one CPU.
	Idle, Heartbeats *float64 `json:",omitempty"`
	// Kernel is the kernel's own work for the same entries.
	Kernel, KernelCPU []float64 `json:",omitempty"`
}

// join is many nodes at once.
type join struct {
	Nodes int
	// Total is from the first write, After from the answer to the last one.
	Total, After, CPU float64
}

func newResults(o options) *results {
	return &results{Time: time.Now(), Machine: figures.ThisMachine().String(), Starts: o.starts, Changes: o.changes, Idle: o.idle.String()}
}

func (r *results) add(registry, program string, peers int) *result {
	row := &result{Registry: registry, Program: program, Peers: peers}
	r.Rows = append(r.Rows, row)
	return row
}

// save writes all to a file, if there is to be one.
func (r *results) save(path string) error { return figures.Save(path, r) }

// print writes all as text that is Markdown too.
func (r *results) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n%s, %s: %d starts, %d changes, idle for %s\n",
		r.Machine, r.Time.Format("2006-01-02 15:04 MST"), r.Took, r.Starts, r.Changes, r.Idle)
	r.table(w, "Start", []string{"ms", "longest", "CPU ms", "peak MB", "restart, CPU ms", "kernel alone, ms", "its CPU ms"}, func(row *result) []string {
		return []string{
			whole(median(row.Start)), whole(figures.Percentile(row.Start, 1)), whole(median(row.StartCPU)), number(median(row.Peak)),
			whole(row.RestartCPU), whole(median(row.Kernel)), whole(median(row.KernelCPU)),
		}
	})
	r.table(w, "One node's change", []string{"median ms", "p99", "CPU ms"}, func(row *result) []string {
		return []string{number(median(row.Change)), number(figures.Percentile(row.Change, 0.99)), number(row.ChangeCPU)}
	})
	r.table(w, "Many nodes join at once", []string{"nodes", "ms from the first write", "ms from the last", "CPU ms"}, func(row *result) []string {
		if row.Join == nil {
			return []string{"-", "-", "-", "-"}
		}
		return []string{fmt.Sprint(row.Join.Nodes), whole(row.Join.Total), whole(row.Join.After), whole(row.Join.CPU)}
	})
	r.table(w, "Nothing happens (percent of one CPU)", []string{"idle", "with heartbeats"}, func(row *result) []string {
		return []string{share(row.Idle), share(row.Heartbeats)}
	})
}

// table prints a row of cells for each result.
func (r *results) table(w io.Writer, title string, columns []string, cells func(*result) []string) {
	t := figures.NewTable(w, title, 2, append([]string{"program", "registry", "peers"}, columns...)...)
	for _, row := range r.Rows {
		t.Line(append([]string{row.Program, row.Registry, fmt.Sprint(row.Peers)}, cells(row)...)...)
	}
	t.End()
}

func median(values []float64) float64 { return figures.Median(values) }

func whole(v float64) string  { return figures.Number(v, 0) }
func number(v float64) string { return figures.Number(v, 1) }

func share(v *float64) string {
	if v == nil {
		return "-"
	}
	return figures.Number(*v, 3)
}
