//go:build amd64 || arm64

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// linked builds the program as make build does.
func linked(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "overlay-cni")
	build := exec.Command("go", "build", "-buildvcs=false", "-tags=faststart", "-ldflags=-E main.entry", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// Arguments and environment arrive as they were sent, and the runtime has one
// thread for Go code before it runs any of the plugin's.
func TestEntry(t *testing.T) {
	program := linked(t)
	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprintf("NAME%d=%s", i, strings.Repeat("x", i%50))
	}
	for name, tt := range map[string]struct{ args, env []string }{
		"no arguments":             {[]string{program}, nil},
		"an even number":           {[]string{program, "a"}, nil},
		"many":                     {append([]string{program}, many...), many},
		"without even its name":    {[]string{}, nil},
		"a setting from outside":   {[]string{program}, []string{"GOMAXPROCS=7"}},
		"a setting that is broken": {[]string{program}, []string{"GOMAXPROCS=many"}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(program)
			cmd.Args = tt.args
			cmd.Env = append(append([]string{"GODEBUG=schedtrace=1"}, tt.env...),
				"CNI_COMMAND=ADD", "CNI_CONTAINERID=c", "CNI_IFNAME=eth0", "CNI_PATH=/", "CNI_NETNS=/the/last/one")
			first, result := talk(t, cmd, func() {})
			if !strings.Contains(first, " gomaxprocs=1 ") {
				t.Errorf("the runtime began with %q", first)
			}
			if want := "/the/last/one"; !strings.Contains(result, want) {
				t.Errorf("%s\nis not about %s", result, want)
			}
		})
	}
}

// The low limit of open files is gone when main runs, so main can open files.
// The timer slack stays: the runtime's threads inherit it.
func TestEntryLimits(t *testing.T) {
	program := linked(t)
	for _, tt := range []struct {
		name        string
		soft, hard  int
		least, most int
	}{
		{"as usual", 64, 99, 64, 99},
		// Package syscall raises nothing here, so the limit is the one that entry set.
		{"nothing to raise it to", 4, 4, 3, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			script := fmt.Sprintf(`ulimit -S -n %d; ulimit -H -n %d; exec "$0"`, tt.soft, tt.hard)
			limits(t, exec.Command("sh", "-c", script, program), tt.least, tt.most)
		})
	}
}

func limits(t *testing.T, cmd *exec.Cmd, least, most int) {
	t.Helper()
	cmd.Env = []string{"GODEBUG=schedtrace=1", "CNI_COMMAND=ADD", "CNI_CONTAINERID=c", "CNI_IFNAME=eth0", "CNI_PATH=/", "CNI_NETNS=/none"}
	talk(t, cmd, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := probe.Eventually(ctx, func(context.Context) error { return mayOpen(cmd.Process.Pid, least, most) }); err != nil {
			t.Error(err)
		}
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", cmd.Process.Pid))
		if err != nil || len(threads) < 2 {
			t.Errorf("threads are %q (%v), want the watching one beside the first", threads, err)
		}
		for _, thread := range threads {
			slack, err := os.ReadFile("/proc/" + filepath.Base(thread) + "/timerslack_ns")
			if err != nil || strings.TrimSpace(string(slack)) != "10000000" {
				t.Errorf("timers of thread %s may be %q ns late (%v), want 10 ms", thread, slack, err)
			}
		}
	})
}

// mayOpen returns an error unless the process may have so many files open.
func mayOpen(pid, least, most int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return err
	}
	var soft int
	_, line, _ := strings.Cut(string(text), "Max open files")
	if _, err := fmt.Sscan(line, &soft); err != nil {
		return err
	}
	if soft < least || soft > most {
		return fmt.Errorf("it may have %d files open, want %d to %d", soft, least, most)
	}
	return nil
}

const config = `{"cniVersion": "1.0.0", "name": "x", "type": "overlay-cni", "ipam": {"ranges": [[{"subnet": "10.9.0.0/24"}]]}}`

// talk returns the first line of stderr, and stdout. The program waits for its
// configuration until that line was written and look has returned, so it can't
// end before.
func talk(t *testing.T, cmd *exec.Cmd, look func()) (first, result string) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	if lines.Scan() {
		first = lines.Text()
	}
	look()
	if _, err := io.WriteString(in, config); err != nil {
		t.Error(err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	for lines.Scan() { // or it could not write
		continue
	}
	if err := cmd.Wait(); err == nil {
		t.Error("found a namespace that isn't there")
	}
	return first, out.String()
}
