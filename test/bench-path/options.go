package main

import (
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// options are the command line.
type options struct {
	dir      string // where overlay-cni and overlayd are
	rounds   int    // how often each set carries each load
	duration time.Duration
	streams  int      // of the load with several
	family   string   // a key of families
	only     []string // names of sets; empty: all
	extra    []string // NAME=DIR[,FLAG...]
	json     string   // file for all that was measured
}

// What --quick stands for: enough to see that all works.
const (
	quickRounds   = 3
	quickDuration = 200 * time.Millisecond
)

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	var quick bool
	f := pflag.NewFlagSet("bench-path", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.SortFlags = false
	f.IntVar(&o.rounds, "rounds", 10, "turns of each set")
	f.DurationVar(&o.duration, "duration", time.Second, "time of each load in a turn")
	f.BoolVar(&quick, "quick", false, fmt.Sprintf("--rounds %d --duration %s, if nothing else is said", quickRounds, quickDuration))
	f.IntVar(&o.streams, "streams", 16, "TCP streams at once, in the load with several")
	f.StringVar(&o.family, "family", "ipv4", "addresses of hosts and pods: ipv4 or ipv6")
	f.StringSliceVar(&o.only, "only", nil, "names of the sets to run, beside "+yardstick+" (default all)")
	f.StringArrayVar(&o.extra, "set", nil, "another set of overlay-cni as NAME=DIR[,FLAG...]: the programs' folder, and flags of overlayd")
	f.StringVar(&o.dir, "dir", "bin", "folder of overlay-cni and overlayd")
	f.StringVar(&o.json, "json", "", "file to write all measurements to")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if quick && !f.Changed("rounds") {
		o.rounds = quickRounds
	}
	if quick && !f.Changed("duration") {
		o.duration = quickDuration
	}
	return o, o.check(f.Args())
}

func (o options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q: all settings are flags, see --help", rest[0])
	case o.rounds < 1:
		return fmt.Errorf("--rounds %d is out of range: use 1 or more", o.rounds)
	case o.duration < time.Millisecond:
		return fmt.Errorf("--duration %s is out of range: use 1ms or more", o.duration)
	case o.streams < 1 || o.streams > maxStreams:
		return fmt.Errorf("--streams %d is out of range: use 1 to %d", o.streams, maxStreams)
	}
	if _, known := families[o.family]; !known {
		return fmt.Errorf("--family %q is unknown: use one of %s", o.family, strings.Join(slices.Sorted(maps.Keys(families)), ", "))
	}
	makers, err := o.makers()
	if err != nil {
		return err
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(makers, func(m maker) bool { return m.name == name }) {
			return fmt.Errorf("--only %q: there is no such set, only %s", name, names(makers))
		}
	}
	return nil
}

// makers are the sets that there can be, those of --set among them.
func (o options) makers() ([]maker, error) {
	all := slices.Clone(ownMakers)
	for _, text := range o.extra {
		name, rest, named := strings.Cut(text, "=")
		parts := strings.Split(rest, ",")
		if !named || name == "" || parts[0] == "" {
			return nil, fmt.Errorf("--set %q: write NAME=DIR[,FLAG...], such as before=/usr/local/bin or fine=bin,--log-level=debug", text)
		}
		all = append(all, maker{name, productIn(parts[0], parts[1:]...)})
	}
	return all, nil
}

func (o options) wants(name string) bool {
	return name == yardstick || len(o.only) == 0 || slices.Contains(o.only, name)
}

// program is the absolute path of a program in a folder: the daemon runs elsewhere.
func program(dir, name string) (string, error) { return filepath.Abs(filepath.Join(dir, name)) }

func names(makers []maker) string {
	var all []string
	for _, m := range makers {
		all = append(all, m.name)
	}
	return strings.Join(all, ", ")
}
