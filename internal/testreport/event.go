package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// event is one line of `go test -json`: of test2json where Package is set, of
// the build where ImportPath is. `go doc test2json` and `go help buildjson`
// describe the fields.
type event struct {
	Action      string
	Package     string
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
	ImportPath  string
}

// readEvents calls event for each event of r, and other for each line that is
// none: what a tool printed in between, which is not to be lost.
func readEvents(r io.Reader, event func(event), other func(line string)) error {
	lines := bufio.NewReader(r)
	for {
		// Not a Scanner: a test may log lines of any length.
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			dispatch(line, event, other)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the events of go test -json: %w", err)
		}
	}
}

func dispatch(line []byte, emit func(event), other func(line string)) {
	var e event
	if line[0] != '{' || json.Unmarshal(line, &e) != nil || e.Action == "" {
		other(string(line))
		return
	}
	emit(e)
}
