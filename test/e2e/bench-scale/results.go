package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
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
	return &results{Time: time.Now(), Machine: thisMachine(), Starts: o.starts, Changes: o.changes, Idle: o.idle.String()}
}

func (r *results) add(registry, program string, peers int) *result {
	row := &result{Registry: registry, Program: program, Peers: peers}
	r.Rows = append(r.Rows, row)
	return row
}

// save writes all to a file, if there is to be one.
func (r *results) save(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// print writes all as text that is Markdown too.
func (r *results) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n%s, %s: %d starts, %d changes, idle for %s\n",
		r.Machine, r.Time.Format("2006-01-02 15:04 MST"), r.Took, r.Starts, r.Changes, r.Idle)
	r.table(w, "Start", []string{"ms", "longest", "CPU ms", "peak MB", "restart, CPU ms", "kernel alone, ms", "its CPU ms"}, func(row *result) []string {
		return []string{
			whole(median(row.Start)), whole(percentile(row.Start, 1)), whole(median(row.StartCPU)), number(median(row.Peak)),
			whole(row.RestartCPU), whole(median(row.Kernel)), whole(median(row.KernelCPU)),
		}
	})
	r.table(w, "One node's change", []string{"median ms", "p99", "CPU ms"}, func(row *result) []string {
		return []string{number(median(row.Change)), number(percentile(row.Change, 0.99)), number(row.ChangeCPU)}
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

// table is a Markdown table with aligned columns.
func (r *results) table(w io.Writer, title string, columns []string, cells func(*result) []string) {
	fmt.Fprintf(w, "\n### %s\n\n", title)
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	line := func(cells ...string) { fmt.Fprintf(t, "| %s\t|\n", strings.Join(cells, "\t| ")) }
	line(append([]string{"program", "registry", "peers"}, columns...)...)
	line(append([]string{"---", "---"}, slices.Repeat([]string{"---:"}, len(columns)+1)...)...)
	for _, row := range r.Rows {
		line(append([]string{row.Program, row.Registry, fmt.Sprint(row.Peers)}, cells(row)...)...)
	}
	_ = t.Flush()
}

// percentile is the value that q of all (0 to 1) don't exceed (nearest rank);
// NaN if there is none.
func percentile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

func median(values []float64) float64 { return percentile(values, 0.5) }

func whole(v float64) string  { return format("%.0f", v) }
func number(v float64) string { return format("%.1f", v) }

func share(v *float64) string {
	if v == nil {
		return "-"
	}
	return format("%.3f", *v)
}

func format(how string, v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf(how, v)
}

// thisMachine says where the figures come from.
func thisMachine() string {
	cpu := "unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			cpu = strings.TrimSpace(value)
			break
		}
	}
	var name unix.Utsname
	_ = unix.Uname(&name)
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf("%s, %d CPUs; Linux %s; load before: %s",
		cpu, runtime.NumCPU(), unix.ByteSliceToString(name.Release[:]), strings.Join(strings.Fields(string(load))[:3], " "))
}
