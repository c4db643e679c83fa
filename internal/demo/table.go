package demo

import (
	"fmt"
	"io"
	"strings"
)

// The table fits a terminal of 80 columns. Lines are printed as the checks end,
// so the widths are fixed beforehand.
const (
	columns   = 80
	nameWidth = 40
)

// table prints one line a check and counts.
type table struct {
	out    io.Writer
	checks int
	failed int
}

func (t *table) header() {
	t.line("CHECK", "RESULT", "DETAIL")
}

func (t *table) line(name, result, detail string) {
	text := fmt.Sprintf("%-*s %-7s %s", nameWidth, name, result, detail)
	fmt.Fprintln(t.out, strings.TrimRight(text, " "))
}

// row prints a check's result: the detail if it went well, else the reason, in
// full, on lines of its own.
func (t *table) row(name, detail string, err error) {
	t.checks++
	if err == nil {
		t.line(name, "ok", detail)
		return
	}
	t.failed++
	t.line(name, "FAILED", "")
	for _, line := range fill(err.Error(), columns-4) {
		fmt.Fprintf(t.out, "    %s\n", line)
	}
}

// fill breaks text between words into lines of at most width characters, where
// no word is longer. Line breaks in the text stay.
func fill(text string, width int) []string {
	var lines []string
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := ""
		for _, word := range strings.Fields(paragraph) {
			if line != "" && len(line)+1+len(word) > width {
				lines, line = append(lines, line), ""
			}
			line = strings.TrimPrefix(line+" "+word, " ")
		}
		lines = append(lines, line)
	}
	return lines
}
