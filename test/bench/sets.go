package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// attacher connects pods, and takes them off again.
type attacher interface {
	Add(p *pod) error
	Del(p *pod) error
}

// Names of the sets that come with the program.
const (
	floorSet   = "floor"
	librarySet = "floor by a library"
	processSet = "process"
	boundSet   = "floor + empty Go"
	startSet   = "floor + VERSION"
	ourSet     = "overlay-cni"
	ourSet6    = "overlay-cni IPv6"
	ourDualSet = "overlay-cni dual stack"
	bridgeSet  = "bridge"
	portmapSet = "bridge+portmap"
)

// emptyProgram is the file of the Go program that does nothing.
const emptyProgram = "bench-empty"

// withPort is appended to a set's name for the row of pods with a host port.
const withPort = ", host port"

// set is one way to connect pods, with a host of its own.
type set struct {
	name string
	host *host
	rows []*row
}

// row is a set, without or with a host port for each pod.
type row struct {
	Name string
	// Note says why nothing was measured; else it is empty.
	Note       string
	Sequential series
	Parallel   series
	attacher   attacher
}

// Where our pods' addresses are from.
const (
	ranges4 = `[{"subnet":"10.1.0.0/22"}]`
	ranges6 = `[{"subnet":"fd00:10:1::/118"}]`
)

// ourList is overlay-cni's configuration. Its state goes to /run, which is a
// tmpfs of the sandbox.
func ourList(ranges ...string) string {
	return `{"cniVersion":"1.0.0","name":"bench","plugins":[{"type":"overlay-cni","runDir":"/run/bench/overlay-cni",
		"capabilities":{"portMappings":true},"mtu":1500,"ipam":{"ranges":[` + strings.Join(ranges, ",") + `]}}]}`
}

// The other plugins' state goes to /run, too. All plugins connect pods to a bridge,
// with one IPv4 address if the name of the set says nothing else, a default route to
// the bridge, and an MTU of 1500.
const (
	bridgeList = `{"cniVersion":"1.0.0","name":"bench","plugins":[{"type":"bridge","bridge":"cni0","isDefaultGateway":true,"mtu":1500,
		"ipam":{"type":"host-local","dataDir":"/run/bench/bridge","ranges":[[{"subnet":"10.1.0.0/22"}]]}}]}`
	portmapList = `{"cniVersion":"1.0.0","name":"bench","plugins":[{"type":"bridge","bridge":"cni0","isDefaultGateway":true,"mtu":1500,
		"ipMasq":true,"ipam":{"type":"host-local","dataDir":"/run/bench/portmap","ranges":[[{"subnet":"10.1.0.0/22"}]]}},
		{"type":"portmap","capabilities":{"portMappings":true}}]}`
)

// makeSets makes the sets that the options ask for, and proves that they work.
func makeSets(o options) ([]*set, error) {
	var sets []*set
	for _, m := range []func() (*set, error){
		func() (*set, error) { return newFloorSet(o) },
		func() (*set, error) { return newLibrarySet(o) },
		func() (*set, error) { return newProcessSet(o) },
		func() (*set, error) { return newBoundSet(o) },
		func() (*set, error) { return newStartSet(o) },
	} {
		s, err := m()
		if err != nil {
			return nil, err
		}
		sets = append(sets, s)
	}
	lists := []struct{ name, dir, list string }{
		{ourSet, o.dir, ourList(ranges4)},
		{ourSet6, o.dir, ourList(ranges6)},
		{ourDualSet, o.dir, ourList(ranges4, ranges6)},
		{bridgeSet, o.cniDir, bridgeList},
		{portmapSet, o.cniDir, portmapList},
	}
	for _, l := range lists {
		if !o.wants(l.name) {
			continue
		}
		c, err := newChain(l.dir, []byte(l.list))
		s, err := newChainSet(o, l.name, c, err)
		if err != nil {
			return nil, err
		}
		sets = append(sets, s)
	}
	return addExtra(o, sets)
}

func addExtra(o options, sets []*set) ([]*set, error) {
	for _, text := range o.extra {
		name, rest, _ := strings.Cut(text, "=")
		dir, file, _ := strings.Cut(rest, ",")
		c, err := readChain(dir, file)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
		s, err := newChainSet(o, name, c, nil)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
		sets = append(sets, s)
	}
	return sets, nil
}

func newFloorSet(o options) (*set, error) {
	return newKernelSet(o, floorSet, func(_ *host, f *floor) (attacher, error) { return f, nil })
}

func newLibrarySet(o options) (*set, error) {
	return newKernelSet(o, librarySet, func(h *host, f *floor) (attacher, error) { return newLibrary(h, f, o.workers()) })
}

// newBoundSet makes the set for the least that a plugin in Go takes if it starts as Go
// programs do.
func newBoundSet(o options) (*set, error) {
	empty := filepath.Join(o.dir, emptyProgram)
	// For one CPU, as overlay-cni: the runtime starts faster so.
	start := process{program{path: empty, env: []string{"GOMAXPROCS=1"}}}
	return newKernelSet(o, boundSet, func(_ *host, f *floor) (attacher, error) { return bound{start, f}, nil })
}

// newStartSet makes the set for what overlay-cni would take if its own work took no
// time.
func newStartSet(o options) (*set, error) {
	start := process{program{path: o.plugin(), env: []string{"CNI_COMMAND=VERSION"}}}
	return newKernelSet(o, startSet, func(_ *host, f *floor) (attacher, error) { return bound{start, f}, nil })
}

// newKernelSet makes a set that connects pods without a plugin.
func newKernelSet(o options, name string, attach func(*host, *floor) (attacher, error)) (*set, error) {
	h, err := newHost(strings.NewReplacer(" ", "", "+", "").Replace(name), o.workers(), o.workers())
	if err != nil {
		return nil, err
	}
	f, err := newFloor(h, o.workers())
	if err != nil {
		return nil, err
	}
	a, err := attach(h, f)
	if err != nil {
		return nil, err
	}
	s := &set{name: name, host: h, rows: []*row{{Name: name, attacher: a}}}
	return s, s.prove(s.rows[0])
}

// bound runs a program that does nothing useful, and then does the kernel's work.
type bound struct {
	start process
	floor *floor
}

func (b bound) Add(p *pod) error {
	if err := b.start.Add(p); err != nil {
		return err
	}
	return b.floor.Add(p)
}

func (b bound) Del(p *pod) error {
	if err := b.start.Del(p); err != nil {
		return err
	}
	return b.floor.Del(p)
}

func newProcessSet(o options) (*set, error) {
	h, err := newHost(processSet, o.workers(), o.workers())
	return &set{name: processSet, host: h, rows: []*row{{Name: processSet, attacher: process{program{path: "/bin/true"}}}}}, err
}

// process is a program that does nothing: the price of starting any.
type process struct{ program program }

// Add runs the program with the input that a plugin would get.
func (s process) Add(p *pod) error {
	_, err := s.program.run([]byte(ourList(ranges4)))
	return err
}

// Del is Add: a plugin is started for either.
func (s process) Del(p *pod) error { return s.Add(p) }

// newChainSet makes a set of a conflist. If programs aren't installed, or host ports
// don't work, the table says so.
func newChainSet(o options, name string, c *chain, err error) (*set, error) {
	plain := &row{Name: name}
	s := &set{name: name, rows: []*row{plain}}
	if errors.Is(err, fs.ErrNotExist) {
		plain.Note = fmt.Sprintf("not installed: %v", err)
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if s.host, err = newHost(strings.ReplaceAll(name, " ", ""), o.workers(), o.workers()); err != nil {
		return nil, err
	}
	plain.attacher = c
	if c.takesPorts() {
		s.rows = append(s.rows, &row{Name: name + withPort, attacher: c.withPort()})
	}
	for _, r := range s.rows {
		if err := s.prove(r); err != nil {
			r.Note = err.Error()
		}
	}
	return s, nil
}
