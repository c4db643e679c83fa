package main

import (
	"regexp"
	"strings"
)

// pkg gathers the events of one package until it ends.
type pkg struct {
	name   string
	output string // what belongs to no test
	tests  map[string]*test
	order  []string // names of tests, as they started
}

type test struct {
	name   string
	output string
	action string // pass, fail or skip; empty while it runs
	// subtests are the direct ones. A test with subtests is counted by them:
	// whoever adds a case to a table has added one test, not two.
	subtests []*test
}

func newPkg(name string) *pkg { return &pkg{name: name, tests: map[string]*test{}} }

func (p *pkg) event(e event) {
	t := p.test(e.Test)
	switch e.Action {
	case "output":
		t.output += e.Output
	case "pass", "fail", "skip":
		t.end(e.Action)
	}
}

func (t *test) end(action string) {
	// Under -count a test ends more than once. One failure is enough.
	if t.action != "fail" {
		t.action = action
	}
	if t.action == "pass" {
		t.output = "" // Only what did not pass is ever printed.
	}
}

func (p *pkg) test(name string) *test {
	t := p.tests[name]
	if t != nil {
		return t
	}
	t = &test{name: name}
	p.tests[name] = t
	p.order = append(p.order, name)
	if parent := p.parent(name); parent != nil {
		parent.subtests = append(parent.subtests, t)
	}
	return t
}

// parent finds the test that started the named one. A name given to t.Run may
// hold slashes of its own, so the nearest prefix need not be a test.
func (p *pkg) parent(name string) *test {
	for {
		end := strings.LastIndexByte(name, '/')
		if end < 0 {
			return nil
		}
		name = name[:end]
		if t := p.tests[name]; t != nil {
			return t
		}
	}
}

func (p *pkg) result() result {
	var r result
	for _, name := range p.order {
		t := p.tests[name]
		switch {
		case t.action == "skip":
			r.skipped = append(r.skipped, Skip{Package: p.name, Test: name, Reason: skipReason(t.output)})
		case t.action == "pass" && len(t.subtests) == 0:
			r.passed++
		case t.failed() && !t.blamesSubtest():
			r.failed = append(r.failed, p.name+" "+name)
		}
	}
	return r
}

// failed includes a test that never ended: the process died under it.
func (t *test) failed() bool { return t.action == "fail" || t.action == "" }

// blamesSubtest tells whether a subtest of t is counted as failed already.
func (t *test) blamesSubtest() bool {
	for _, sub := range t.subtests {
		if sub.failed() {
			return true
		}
	}
	return false
}

// failures is the output of all failed tests, in the order they started.
func (p *pkg) failures() string {
	var text strings.Builder
	for _, name := range p.order {
		t := p.tests[name]
		if !t.failed() {
			continue
		}
		text.WriteString(withoutProgress(t.output))
		if t.action == "" {
			text.WriteString("--- FAIL: " + name + " did not end\n")
		}
	}
	return text.String()
}

// withoutProgress drops the lines by which go test -v tells that a test
// started, paused or went on.
func withoutProgress(output string) string {
	var text strings.Builder
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, "=== ") {
			text.WriteString(line)
		}
	}
	return text.String()
}

// skipReason finds the argument of t.Skip in the output of a test: the last
// thing logged, from "file.go:LINE: " on.
func skipReason(output string) string {
	position := regexp.MustCompile(`^\s*\S+\.go:\d+: `)
	var reason []string
	for line := range strings.Lines(withoutProgress(output)) {
		if strings.HasPrefix(strings.TrimSpace(line), "--- SKIP") {
			continue
		}
		if at := position.FindString(line); at != "" {
			reason, line = nil, line[len(at):]
		}
		reason = append(reason, strings.TrimSpace(line))
	}
	if text := strings.Join(reason, " "); text != "" {
		return text
	}
	return "no reason given"
}
