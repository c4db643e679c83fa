//go:build amd64 || arm64

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// linked builds the program as make build does.
func linked(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "overlay-cni")
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-E main.entry", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// Arguments and environment arrive as they were sent, and the runtime has one
// thread for Go code from its first line on, which is before any of ours.
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
			first, result := talk(t, cmd)
			if !strings.Contains(first, " gomaxprocs=1 ") {
				t.Errorf("the runtime began with %q", first)
			}
			if want := "/the/last/one"; !strings.Contains(result, want) {
				t.Errorf("%s\nis not about %s", result, want)
			}
		})
	}
}

const config = `{"cniVersion": "1.0.0", "name": "x", "type": "overlay-cni", "ipam": {"ranges": [[{"subnet": "10.9.0.0/24"}]]}}`

// talk returns the first line of stderr, and stdout. The program ends no sooner
// than that line was written: until then it waits for its configuration.
func talk(t *testing.T, cmd *exec.Cmd) (first, result string) {
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
