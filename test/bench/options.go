package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// options are the command line.
type options struct {
	dir      string   // where overlay-cni is
	cniDir   string   // where Debian's plugins are
	rounds   int      // how often each set has its turn
	pods     int      // connected one after the other in a turn
	parallel int      // connected at once in a turn
	scaling  int      // repetitions of the scaling part
	only     []string // names of sets; empty: all
	extra    []string // NAME=DIR,CONFLIST
	json     string   // file for all that was measured
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	f := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.SortFlags = false
	f.IntVar(&o.rounds, "rounds", 15, "turns of each set")
	f.IntVar(&o.pods, "pods", 20, "pods that a turn connects one after the other")
	f.IntVar(&o.parallel, "parallel", 16, "pods that a turn connects at once")
	f.IntVar(&o.scaling, "scaling", 5, "repetitions of the scaling part; 0: none")
	f.StringSliceVar(&o.only, "only", nil, "names of the sets to run, beside floor and process (default all)")
	f.StringArrayVar(&o.extra, "set", nil, "a set of your own as NAME=DIR,CONFLIST: the plugins' folder, and the file that names them; they are run where they are")
	f.StringVar(&o.dir, "dir", "bin", "folder of overlay-cni")
	f.StringVar(&o.cniDir, "cni-dir", debianDir, "folder of the reference plugins (Debian: containernetworking-plugins)")
	f.StringVar(&o.json, "json", "", "file to write all measurements to")
	if err := f.Parse(args); err != nil {
		return o, err
	}
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
	for _, n := range []struct {
		flag       string
		value, max int
	}{{"rounds", o.rounds, 10_000}, {"pods", o.pods, maxPods}, {"parallel", o.parallel, maxPods}} {
		if n.value < 1 || n.value > n.max {
			return fmt.Errorf("--%s %d is out of range: use 1 to %d", n.flag, n.value, n.max)
		}
	}
	for _, s := range o.extra {
		name, rest, named := strings.Cut(s, "=")
		dir, file, both := strings.Cut(rest, ",")
		if !named || !both || name == "" || strings.Contains(name, "/") || dir == "" || file == "" {
			return fmt.Errorf("--set %q: write NAME=DIR,CONFLIST, such as mine=/opt/cni/bin,/etc/cni/net.d/10-mine.conflist", s)
		}
	}
	return nil
}

func (o options) wants(name string) bool {
	return len(o.only) == 0 || slices.Contains(o.only, name)
}

// workers is how many pods, and how many threads, a set needs.
func (o options) workers() int { return max(o.pods, o.parallel) }

// plugin is overlay-cni's file.
func (o options) plugin() string { return filepath.Join(o.dir, ourSet) }
