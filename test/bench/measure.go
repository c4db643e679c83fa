package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
	"github.com/overlay-cni/overlay-cni/test/internal/figures"
)

// results holds all measurements.
type results struct {
	Time    time.Time
	Machine machine
	Options settings
	Rows    []*row
	Took    time.Duration
	Plugin  footprint
	Scaling []scale    `json:",omitempty"`
	Limit   *portLimit `json:",omitempty"`
}

// settings are the options that say what the figures mean.
type settings struct{ Rounds, Pods, Parallel, Scaling int }

// footprint is what overlay-cni takes, in bytes.
type footprint struct{ File, PeakMemory int64 }

func measure(o options, progress io.Writer) (*results, error) {
	start := time.Now()
	if err := coverState(o); err != nil {
		return nil, err
	}
	o, remove, err := installed(o)
	if err != nil {
		return nil, err
	}
	defer remove()
	sets, err := makeSets(o)
	if err != nil {
		return nil, err
	}
	r := &results{
		Time: start.UTC().Truncate(time.Second), Machine: thisMachine(o),
		Options: settings{o.rounds, o.pods, o.parallel, o.scaling},
	}
	for _, s := range sets {
		r.Rows = append(r.Rows, s.rows...)
	}
	play(o, sets, progress)
	if r.Plugin, err = measureFootprint(o, sets); err != nil {
		return nil, err
	}
	if o.scaling > 0 && o.wants(ourSet) {
		if r.Scaling, r.Limit, err = measureScaling(o, progress); err != nil {
			return nil, err
		}
	}
	r.Took = time.Since(start).Round(time.Second)
	return r, nil
}

// installed copies the project's programs, as an installation does: the linker leaves
// its output in the page cache in single pages, and to start a program from those
// costs a tenth of an ADD more.
func installed(o options) (options, func(), error) {
	dir, err := os.MkdirTemp(o.dir, "installed-")
	if err != nil {
		return o, nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	for _, name := range []string{ourSet, emptyProgram} {
		_, err = cnifiles.Program{Path: filepath.Join(dir, name)}.Install(filepath.Join(o.dir, name))
		if err != nil {
			remove()
			return o, nil, fmt.Errorf("%w: make bench builds it", err)
		}
	}
	o.dir = dir
	return o, remove, nil
}

// coverState hides the directory where plugins keep state by default. Otherwise the
// benchmark would reserve addresses of the machine's own containers.
func coverState(o options) error {
	const dir = "/var/lib/cni"
	if len(o.extra) == 0 {
		return nil // the others keep theirs in /run
	}
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
	}
	if err != nil {
		return fmt.Errorf("cover %s with an empty tmpfs for the sets of --set: %w", dir, err)
	}
	return nil
}

func measureFootprint(o options, sets []*set) (footprint, error) {
	info, err := os.Stat(o.plugin())
	if err != nil {
		return footprint{}, err
	}
	f := footprint{File: info.Size()}
	for _, s := range sets {
		if c, ok := s.rows[0].attacher.(*chain); ok && s.name == ourSet {
			err = s.host.do(func() (err error) {
				f.PeakMemory, err = c.peakMemory(s.host.pods[0])
				return err
			})
		}
	}
	return f, err
}

// peakMemory returns the most memory that an ADD of the first plugin has at once, in
// bytes.
func (c *chain) peakMemory(p *pod) (int64, error) {
	p.result = nil
	conf, err := c.conf(c.plugins[0], p)
	if err != nil {
		return 0, err
	}
	peak, err := c.program(c.plugins[0], "ADD", p).peakMemory(conf)
	if err != nil {
		return 0, err
	}
	return peak, c.Del(p)
}

func (r *results) save(file string) error { return figures.Save(file, r) }
