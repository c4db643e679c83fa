package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// nameWidth fits the longest name of a check.
const nameWidth = 52

// table prints a line for each check as it ends, and counts.
type table struct {
	out    io.Writer
	start  time.Time
	checks int
	failed int
}

func newTable(out io.Writer) *table { return &table{out: out, start: time.Now()} }

func (t *table) header() { t.line("CHECK", "RESULT", "TIME", "DETAIL") }

func (t *table) line(name, result, took, detail string) {
	text := fmt.Sprintf("%-*s %-7s %7s  %s", nameWidth, name, result, took, detail)
	fmt.Fprintln(t.out, strings.TrimRight(text, " "))
}

// row prints the result of a check: the detail if it went well, else the reason,
// in full, on lines of its own.
func (t *table) row(name string, took time.Duration, detail string, err error) {
	t.checks++
	if err == nil {
		t.line(name, "ok", seconds(took), detail)
		return
	}
	t.failed++
	t.line(name, "FAILED", seconds(took), "")
	for line := range strings.SplitSeq(strings.TrimSpace(err.Error()), "\n") {
		fmt.Fprintf(t.out, "    %s\n", line)
	}
}

// stopped says that checks were not run.
func (t *table) stopped(reason error) { fmt.Fprintln(t.out, reason) }

// end prints the sum. It returns an error if there is a reason to.
func (t *table) end() error {
	fmt.Fprintf(t.out, "\n%d checks, %d failed, in %s\n", t.checks, t.failed, seconds(time.Since(t.start)))
	switch {
	case t.checks == 0:
		return errors.New("nothing was checked")
	case t.failed > 0:
		return fmt.Errorf("%d of %d checks failed", t.failed, t.checks)
	}
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
