package main

import (
	"errors"
	"fmt"
	"strings"
)

// Policy says whether tests may be skipped.
type Policy int

// As root nothing that a test needs is out of reach, so a skipped test there
// is one that nobody would ever run.
const (
	AllowSkips Policy = iota
	ForbidSkips
)

// What may be wrong with a run.
var (
	ErrFailed  = errors.New("tests failed")
	ErrNothing = errors.New("no test ran")
	ErrSkipped = errors.New("tests were skipped as root, where all of them can run")
)

// Summary counts tests over all packages.
type Summary struct {
	Passed  int
	Failed  []string // "package test", or the package where no test is to blame
	Skipped []Skip
}

// Skip is a test that did not run.
type Skip struct {
	Package, Test, Reason string
}

func (s *Summary) add(r result) {
	s.Passed += r.passed
	s.Failed = append(s.Failed, r.failed...)
	s.Skipped = append(s.Skipped, r.skipped...)
}

// Text tells which tests failed and which were skipped, with the reasons, and
// ends with the line of the counts.
func (s Summary) Text(policy Policy) string {
	var text strings.Builder
	list(&text, "Failed:", s.Failed)
	list(&text, "Skipped:", s.skips())
	if err := s.Verdict(policy); err != nil {
		list(&text, "Not good:", strings.Split(err.Error(), "\n"))
	}
	fmt.Fprintf(&text, "\n%d passed, %d failed, %d skipped\n", s.Passed, len(s.Failed), len(s.Skipped))
	return text.String()
}

// Verdict is nil where the run is good under the policy.
func (s Summary) Verdict(policy Policy) error {
	var errs []error
	if len(s.Failed) > 0 {
		errs = append(errs, ErrFailed)
	}
	if s.Passed+len(s.Failed) == 0 {
		errs = append(errs, ErrNothing)
	}
	if policy == ForbidSkips && len(s.Skipped) > 0 {
		errs = append(errs, ErrSkipped)
	}
	return errors.Join(errs...)
}

func (s Summary) skips() []string {
	var lines []string
	for _, skip := range s.Skipped {
		lines = append(lines, fmt.Sprintf("%s %s: %s", skip.Package, skip.Test, skip.Reason))
	}
	return lines
}

func list(text *strings.Builder, title string, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(text, "\n%s\n  %s\n", title, strings.Join(lines, "\n  "))
	}
}
