package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// report is the state between two events.
type report struct {
	out      *bufio.Writer
	packages map[string]*pkg
	builds   map[string]string // output of the compiler, by the build's import path
	summary  Summary
}

// Report reads the events of `go test -json` from in, writes to out what
// belongs to each package when the package ends, and returns what it counted.
func Report(in io.Reader, out io.Writer) (Summary, error) {
	r := &report{
		out:      bufio.NewWriter(out),
		packages: map[string]*pkg{},
		builds:   map[string]string{},
	}
	if err := readEvents(in, r.event, func(line string) { r.print(line) }); err != nil {
		return Summary{}, err
	}
	r.endOfStream()
	if err := r.out.Flush(); err != nil {
		return Summary{}, fmt.Errorf("write the report: %w", err)
	}
	return r.summary, nil
}

// print keeps no error: a bufio.Writer remembers the first one, and Report
// returns it when it flushes.
func (r *report) print(parts ...string) {
	for _, part := range parts {
		_, _ = r.out.WriteString(part)
	}
}

func (r *report) event(e event) {
	switch {
	case e.ImportPath != "":
		r.builds[e.ImportPath] += e.Output
	case e.Test != "":
		r.pkg(e.Package).event(e)
	case e.Action == "output":
		r.pkg(e.Package).output += e.Output
	case e.Action == "pass", e.Action == "fail", e.Action == "skip":
		r.finish(r.pkg(e.Package), e)
	}
}

func (r *report) pkg(name string) *pkg {
	p := r.packages[name]
	if p == nil {
		p = newPkg(name)
		r.packages[name] = p
	}
	return p
}

// endOfStream fails the packages that are still open: go test was killed, or
// the pipe broke.
func (r *report) endOfStream() {
	for _, name := range slices.Sorted(maps.Keys(r.packages)) {
		p := r.packages[name]
		p.output += "go test ended before this package did\n"
		r.finish(p, event{Action: "fail"})
	}
}

// finish counts the tests of p, which ends with event e, and prints its line.
// The line comes after what failed, as with go test itself, and is flushed,
// for someone may be waiting for it.
func (r *report) finish(p *pkg, e event) {
	delete(r.packages, p.name)
	if e.Action == "skip" && len(p.order) == 0 {
		r.print("none  ", p.name, "  no test files\n")
		_ = r.out.Flush() // Remembered, see print.
		return
	}
	result := p.result()
	if e.Action == "fail" && len(result.failed) == 0 {
		result.failed = []string{p.name}
	}
	if len(result.failed) > 0 {
		r.print(p.failures(), r.buildOutput(e.FailedBuild))
	}
	if e.Action == "fail" {
		r.print(withoutVerdict(p.output))
	}
	r.print(result.line(p.name, e.Elapsed))
	r.summary.add(result)
	_ = r.out.Flush() // Remembered, see print.
}

// withoutVerdict drops from a failed package's output the lines that say that it
// failed: its own line in the report says so.
func withoutVerdict(output string) string {
	var text strings.Builder
	for line := range strings.Lines(output) {
		if line != "FAIL\n" && !strings.HasPrefix(line, "FAIL\t") {
			text.WriteString(line)
		}
	}
	return text.String()
}

// buildOutput is what the failed build printed. Several packages may fail by
// the same build; the first one shows it.
func (r *report) buildOutput(build string) string {
	output := r.builds[build]
	delete(r.builds, build)
	return output
}

// result is what became of the tests of one package.
type result struct {
	passed  int
	failed  []string
	skipped []Skip
}

func (r result) line(name string, seconds float64) string {
	verdict := "ok  "
	if len(r.failed) > 0 {
		verdict = "FAIL"
	}
	parts := []string{fmt.Sprintf("%d passed", r.passed)}
	if n := len(r.failed); n > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", n))
	}
	if n := len(r.skipped); n > 0 {
		parts = append(parts, fmt.Sprintf("%d skipped", n))
	}
	return fmt.Sprintf("%s  %s  %s  (%.2fs)\n", verdict, name, strings.Join(parts, ", "), seconds)
}
