package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Streams as go test -json of Go 1.26 writes them, less the times.
const (
	passes = `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: a log line\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- PASS: TestA (0.00s)\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p","Elapsed":0.1}
`
	fails = `
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"=== RUN   TestA/x\n"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"    a_test.go:3: got 1, want 2\n"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"--- FAIL: TestA/x (0.00s)\n"}
{"Action":"fail","Package":"p","Test":"TestA/x"}
{"Action":"run","Package":"p","Test":"TestA/y/z"}
{"Action":"pass","Package":"p","Test":"TestA/y/z"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- FAIL: TestA (0.00s)\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p","Elapsed":0.1}
`
	skips = `
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: kernel 6.1\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:4: needs root:\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"        run it with sudo\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"run","Package":"p","Test":"TestC"}
{"Action":"pass","Package":"p","Test":"TestC"}
{"Action":"pass","Package":"p","Elapsed":0.1}
`
	doesNotBuild = `
{"ImportPath":"p [p.test]","Action":"build-output","Output":"# p [p.test]\n"}
{"ImportPath":"p [p.test]","Action":"build-output","Output":"p/x.go:2:13: cannot use \"s\"\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","Elapsed":0,"FailedBuild":"p [p.test]"}
{"Action":"output","Package":"q","Output":"FAIL\tq [build failed]\n"}
{"Action":"fail","Package":"q","Elapsed":0,"FailedBuild":"p [p.test]"}
`
	dies = `
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"run","Package":"p","Test":"TestB/x"}
{"Action":"output","Package":"p","Test":"TestB/x","Output":"panic: test timed out after 3s\n"}
{"Action":"output","Package":"p","Output":"exit status 2\n"}
{"Action":"fail","Package":"p","Elapsed":3}
`
	diesBeforeTests = `
{"Action":"output","Package":"p","Output":"cannot make a namespace\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p","Elapsed":0.1}
`
	stopsShort = `
{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
`
	failsOnceOfTwice = `
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: odd\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p","Elapsed":0}
`
	noTests = `
{"Action":"output","Package":"p","Output":"?   \tp\t[no test files]\n"}
{"Action":"skip","Package":"p","Elapsed":0}
`
)

func TestReport(t *testing.T) {
	tests := map[string]struct {
		stream string
		text   string
		want   Summary
	}{
		"a passing test is counted, not shown": {
			stream: passes,
			text:   "ok    p  1 passed  (0.10s)\n",
			want:   Summary{Passed: 1},
		},
		"a failing subtest is counted once and shown in full": {
			stream: fails,
			text: "--- FAIL: TestA (0.00s)\n" +
				"    a_test.go:3: got 1, want 2\n--- FAIL: TestA/x (0.00s)\n" +
				"FAIL  p  1 passed, 1 failed  (0.10s)\n",
			want: Summary{Passed: 1, Failed: []string{"p TestA/x"}},
		},
		"a skipped test gives the last thing it logged": {
			stream: skips,
			text:   "ok    p  1 passed, 2 skipped  (0.10s)\n",
			want: Summary{Passed: 1, Skipped: []Skip{
				{Package: "p", Test: "TestA", Reason: "needs root: run it with sudo"},
				{Package: "p", Test: "TestB", Reason: "no reason given"},
			}},
		},
		"a failed build is shown once and fails each package": {
			stream: doesNotBuild,
			text: "# p [p.test]\np/x.go:2:13: cannot use \"s\"\n" +
				"FAIL  p  0 passed, 1 failed  (0.00s)\nFAIL  q  0 passed, 1 failed  (0.00s)\n",
			want: Summary{Failed: []string{"p", "q"}},
		},
		"tests that never ended are failures": {
			stream: dies,
			text: "--- FAIL: TestB did not end\n" +
				"panic: test timed out after 3s\n--- FAIL: TestB/x did not end\n" +
				"exit status 2\nFAIL  p  1 passed, 1 failed  (3.00s)\n",
			want: Summary{Passed: 1, Failed: []string{"p TestB/x"}},
		},
		"a package that dies before its tests is a failure": {
			stream: diesBeforeTests,
			text:   "cannot make a namespace\nFAIL  p  0 passed, 1 failed  (0.10s)\n",
			want:   Summary{Failed: []string{"p"}},
		},
		"a stream that stops short is a failure": {
			stream: stopsShort,
			text:   "go test ended before this package did\nFAIL  p  1 passed, 1 failed  (0.00s)\n",
			want:   Summary{Passed: 1, Failed: []string{"p"}},
		},
		"a test that failed stays failed when run again": {
			stream: failsOnceOfTwice,
			text:   "    a_test.go:3: odd\nFAIL  p  0 passed, 1 failed  (0.00s)\n",
			want:   Summary{Failed: []string{"p TestA"}},
		},
		"a package without tests counts for nothing": {
			stream: noTests,
			text:   "none  p  no test files\n",
		},
		"a line that is no event is passed on": {
			stream: "go: warning\n{\"no\": \"event\"}\n{broken",
			text:   "go: warning\n{\"no\": \"event\"}\n{broken",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var text strings.Builder
			got, err := Report(strings.NewReader(strings.TrimPrefix(test.stream, "\n")), &text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("summary (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.text, text.String()); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSummaryText(t *testing.T) {
	summary := Summary{
		Passed:  3,
		Failed:  []string{"p TestA", "q"},
		Skipped: []Skip{{Package: "p", Test: "TestB", Reason: "needs root"}},
	}
	want := `
Failed:
  p TestA
  q

Skipped:
  p TestB: needs root

Not good:
  tests failed
  tests were skipped as root, where all of them can run

3 passed, 2 failed, 1 skipped
`
	if diff := cmp.Diff(want, summary.Text(ForbidSkips)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRunFailsUnlessAllIsWell(t *testing.T) {
	tests := map[string]struct {
		stream string
		uid    int
		exit   int
		last   string
	}{
		"passes":          {stream: passes, uid: 0, exit: 0, last: "1 passed, 0 failed, 0 skipped"},
		"fails":           {stream: fails, uid: 0, exit: 1, last: "1 passed, 1 failed, 0 skipped"},
		"fails to build":  {stream: doesNotBuild, uid: 0, exit: 1, last: "0 passed, 2 failed, 0 skipped"},
		"stops short":     {stream: stopsShort, uid: 0, exit: 1, last: "1 passed, 1 failed, 0 skipped"},
		"skips as user":   {stream: skips, uid: 1000, exit: 0, last: "1 passed, 0 failed, 2 skipped"},
		"skips as root":   {stream: skips, uid: 0, exit: 1, last: "1 passed, 0 failed, 2 skipped"},
		"no tests at all": {stream: noTests, uid: 0, exit: 1, last: "0 passed, 0 failed, 0 skipped"},
		"no events":       {stream: "", uid: 0, exit: 1, last: "0 passed, 0 failed, 0 skipped"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			exit := run(strings.NewReader(test.stream), &out, io.Discard, policyFor(test.uid))
			if exit != test.exit {
				t.Errorf("exit code %d, want %d", exit, test.exit)
			}
			if !strings.HasSuffix(out.String(), "\n"+test.last+"\n") {
				t.Errorf("want last line %q in:\n%s", test.last, out.String())
			}
		})
	}
}

func TestRunFailsWhenItCannotReadOrWrite(t *testing.T) {
	broken := errors.New("pipe broke")
	var stderr strings.Builder
	if exit := run(failing{broken}, io.Discard, &stderr, AllowSkips); exit != 1 {
		t.Errorf("exit code %d after a read error, want 1", exit)
	}
	if exit := run(strings.NewReader(passes), failing{broken}, &stderr, AllowSkips); exit != 1 {
		t.Errorf("exit code %d after a write error, want 1", exit)
	}
	want := "testreport: read the events of go test -json: pipe broke\ntestreport: write the report: pipe broke\n"
	if diff := cmp.Diff(want, stderr.String()); diff != "" {
		t.Errorf("stderr (-want +got):\n%s", diff)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

func FuzzReport(f *testing.F) {
	for _, stream := range []string{passes, fails, skips, doesNotBuild, dies, stopsShort, noTests} {
		f.Add(stream)
	}
	f.Fuzz(func(t *testing.T, stream string) {
		summary, err := Report(strings.NewReader(stream), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if failureIn(t, stream) && summary.Verdict(AllowSkips) == nil {
			t.Error("a failure was reported as good")
		}
	})
}

func failureIn(t *testing.T, stream string) bool {
	failed := false
	err := readEvents(strings.NewReader(stream), func(e event) {
		failed = failed || e.Action == "fail" && e.ImportPath == ""
	}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return failed
}
