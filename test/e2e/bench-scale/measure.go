package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/apiserver"
)

const (
	// work is where all files are: on the sandbox's own tmpfs.
	work = "/run/bench-scale"
	// limit bounds each wait: a program that takes longer has failed.
	limit = time.Minute
)

// bencher is what all measurements share.
type bencher struct {
	options
	lab      *lab.Lab
	progress io.Writer
	results  *results
	hosts    int // ever made, for their names
}

func measure(ctx context.Context, o options, progress io.Writer) (*results, error) {
	l, err := newLab()
	if err != nil {
		return nil, err
	}
	b := &bencher{options: o, lab: l, progress: progress, results: newResults(o)}
	for _, run := range []func(context.Context) error{b.withKube, b.withFile} {
		if err := run(ctx); err != nil {
			return nil, err
		}
	}
	b.results.Took = time.Since(b.results.Time).Round(time.Second).String()
	return b.results, nil
}

func newLab() (*lab.Lab, error) {
	return lab.New(lab.Config{Dir: work, Segments: prefixes(segment), PodNetworks: prefixes(podNetwork), MTU: 1500})
}

func (b *bencher) say(format string, args ...any) {
	fmt.Fprintf(b.progress, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}

// withKube measures with an apiserver on the other end of the wire.
func (b *bencher) withKube(ctx context.Context) error {
	if len(b.kube) == 0 {
		return nil
	}
	var s *apiserver.Server
	err := b.lab.Switch().Do(func() (err error) {
		starting, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		s, err = apiserver.Start(starting, apiserver.Options{
			Dir: filepath.Join(work, "kubernetes"), Bin: filepath.Join(b.dir, "e2e"), Address: segment.Addr(),
		})
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	source, err := newKubeSource(s)
	if err != nil {
		return err
	}
	programs := []program{overlayd(b.options, source)}
	for _, definition := range b.program {
		programs = append(programs, another(definition, source.kubeconfig))
	}
	return b.sizes(ctx, setting{registry: kubeRegistry, source: source, programs: programs}, b.kube)
}

func (b *bencher) withFile(ctx context.Context) error {
	source := newFileSource(work)
	return b.sizes(ctx, setting{registry: fileRegistry, source: source, programs: []program{overlayd(b.options, source)}}, b.file)
}

// setting is a registry and the programs that are measured with it.
type setting struct {
	registry string
	source   source
	programs []program
}

// sizes lets the registry grow from one number of peers to the next, which
// are in order.
func (b *bencher) sizes(ctx context.Context, s setting, sizes []int) error {
	have := 0
	for _, n := range sizes {
		began := time.Now()
		if err := s.source.add(ctx, peers(have, n)); err != nil {
			return err
		}
		b.say("%s registry: %d nodes added in %s", s.registry, n-have, time.Since(began).Round(time.Millisecond))
		have = n
		for _, p := range s.programs {
			if err := b.measureProgram(ctx, s, p, n); err != nil {
				return fmt.Errorf("%s with %d peers, %s registry: %w", p.name, n, s.registry, err)
			}
		}
	}
	return nil
}

// subject is one program that runs on a host of its own.
type subject struct {
	*process
	program program
	host    *lab.Host
	own     node
	kernel  *watcher
}

// measureProgram takes all measurements of a program with n peers.
func (b *bencher) measureProgram(ctx context.Context, s setting, p program, n int) error {
	r := b.results.add(s.registry, p.name, n)
	var last *subject
	for i := range b.starts {
		b.say("%s, %s registry, %d peers: start %d of %d", p.name, s.registry, n, i+1, b.starts)
		subject, err := b.launch(ctx, s, p, r)
		if err != nil {
			return err
		}
		if last = subject; i+1 < b.starts {
			if err := b.end(ctx, s, subject); err != nil {
				return err
			}
		}
	}
	for _, part := range []func(context.Context, setting, *subject, *result) error{b.change, b.joining, b.idling, b.restart, b.floor} {
		if err := part(ctx, s, last, r); err != nil {
			return err
		}
	}
	return b.end(ctx, s, last)
}

// launch makes a host, starts the program there and waits until all peers are
// in the kernel, and then until the program is at rest.
func (b *bencher) launch(ctx context.Context, s setting, p program, r *result) (*subject, error) {
	b.hosts++
	h, err := b.lab.AddHost(fmt.Sprintf("host-%d", b.hosts))
	if err != nil {
		return nil, err
	}
	subject := &subject{program: p, host: h, own: node{h.Name, h.Addresses()[0], h.Subnets()[0]}}
	if err := s.source.add(ctx, []node{subject.own}); err != nil {
		return nil, err
	}
	if subject.kernel, err = watch(h.Netns()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	all := subject.kernel.expect(entriesOf(peers(0, r.Peers)))
	if err := subject.start(); err != nil {
		return nil, err
	}
	end, err := subject.kernel.await(ctx, all)
	if err != nil {
		return nil, fmt.Errorf("%w; its log: %s", err, subject.tail())
	}
	cpu, err := subject.rest(ctx)
	if err != nil {
		return nil, err
	}
	peak, err := subject.peak()
	r.Start = append(r.Start, milliseconds(end.Sub(subject.started)))
	r.StartCPU = append(r.StartCPU, milliseconds(cpu))
	r.Peak = append(r.Peak, float64(peak)/1e6)
	return subject, err
}

// start starts the program, or starts it again.
func (s *subject) start() (err error) {
	s.process, err = start(s.host.Netns(), s.program.command(s.host), filepath.Join(work, s.host.Name, "log"))
	return err
}

// end takes the host out of the world.
func (b *bencher) end(ctx context.Context, s setting, subject *subject) error {
	subject.kill()
	subject.kernel.close()
	if err := s.source.remove(ctx, []node{subject.own}); err != nil {
		return err
	}
	return subject.host.Remove()
}

// tail is the end of the program's log.
func (p *process) tail() string {
	const shown = 2000
	text, _ := os.ReadFile(p.log)
	return string(text[max(0, len(text)-shown):])
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
