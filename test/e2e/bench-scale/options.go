package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Registries that overlayd is measured with.
const (
	fileRegistry = "file"
	kubeRegistry = "kube"
)

// options are the command line.
type options struct {
	dir     string        // where overlayd is, and Kubernetes in e2e below it
	file    []int         // numbers of peers with the file registry
	kube    []int         // numbers of peers with the kube registry
	starts  int           // of each program and number of peers
	changes int           // of one node's address
	join    int           // nodes that join at once
	idle    time.Duration // how long nothing happens
	program []string      // NAME=COMMAND of others than overlayd
	json    string        // file for all that was measured
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	f := pflag.NewFlagSet("bench-scale", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.SortFlags = false
	f.IntSliceVar(&o.kube, "kube", []int{10, 100, 1000, 5000}, "numbers of peers with the kube registry; 0: none")
	f.IntSliceVar(&o.file, "file", []int{10, 100, 1000, 5000, 20000}, "numbers of peers with the file registry; 0: none")
	f.IntVar(&o.starts, "starts", 5, "starts of each program with each number of peers")
	f.IntVar(&o.changes, "changes", 100, "changes of one node's address")
	f.IntVar(&o.join, "join", 500, "nodes that join at once, but no more than there are")
	f.DurationVar(&o.idle, "idle", 60*time.Second, "how long to watch what an idle daemon costs; 0: not")
	f.StringArrayVar(&o.program, "program", nil, "another program to run with the kube registry as NAME=COMMAND: a shell command, see docs/benchmarks.md")
	f.StringVar(&o.dir, "dir", "bin", "folder of overlayd, and of e2e/kube-apiserver")
	f.StringVar(&o.json, "json", "", "file to write all measurements to")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	none := func(n int) bool { return n == 0 }
	o.file, o.kube = slices.DeleteFunc(o.file, none), slices.DeleteFunc(o.kube, none)
	slices.Sort(o.file)
	slices.Sort(o.kube)
	var err error
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return o, err
	}
	return o, o.check(f.Args())
}

func (o options) check(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q: all settings are flags, see --help", rest[0])
	}
	for _, n := range slices.Concat(o.file, o.kube) {
		if n < 1 || n+o.join > maxPeers {
			return fmt.Errorf("%d peers and %d that join are out of range: together they can be 1 to %d", n, o.join, maxPeers)
		}
	}
	if o.starts < 1 || o.changes < 0 || o.join < 0 {
		return fmt.Errorf("--starts %d, --changes %d and --join %d: at least one start, and no negative numbers", o.starts, o.changes, o.join)
	}
	for _, p := range o.program {
		if name, command, ok := strings.Cut(p, "="); !ok || name == "" || command == "" {
			return fmt.Errorf("--program %q: write NAME=COMMAND", p)
		}
	}
	return nil
}
