package main

import (
	"context"
	"fmt"
	"time"
)

const (
	// between is the time from one change to the next: each meets a daemon at
	// rest, as changes of single nodes do.
	between = 250 * time.Millisecond
	// stride visits the nodes in an order that is none: a prime.
	stride = 7919
)

// change gives nodes another address, one after the other, and each its own
// one back; the last one, of an odd number of changes, unmeasured: other
// measurements expect nodes where they were.
func (b *bencher) change(ctx context.Context, s setting, subject *subject, r *result) error {
	if b.changes == 0 {
		return nil
	}
	b.say("%s, %s registry, %d peers: %d changes", r.Program, r.Registry, r.Peers, b.changes)
	before, err := subject.rest(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(between)
	defer tick.Stop()
	for i := range b.changes {
		n := changed(i, r.Peers)
		if i%2 == 0 {
			n.address = addressOf(firstSpare + i)
		}
		took, err := b.changeOne(ctx, s, subject, n)
		if err != nil {
			return err
		}
		r.Change = append(r.Change, milliseconds(took))
		<-tick.C
	}
	after, err := subject.rest(ctx)
	r.ChangeCPU = milliseconds(after-before) / float64(b.changes)
	if err != nil || b.changes%2 == 0 {
		return err
	}
	_, err = b.changeOne(ctx, s, subject, changed(b.changes-1, r.Peers))
	return err
}

// changed is the node of change number i, with its own address.
func changed(i, peers int) node { return peer(i / 2 * stride % peers) }

// changeOne measures from the beginning of the write, so the registry's own
// work is in it.
func (b *bencher) changeOne(ctx context.Context, s setting, subject *subject, n node) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	moved := subject.kernel.expect([]entry{{forward, host(n.address)}})
	began, err := s.source.move(ctx, n)
	if err != nil {
		return 0, fmt.Errorf("give node %s the address %s: %w", n.name, n.address, err)
	}
	end, err := subject.kernel.await(ctx, moved)
	if err != nil {
		return 0, fmt.Errorf("%w; the log: %s", err, subject.tail())
	}
	return end.Sub(began), nil
}

// joining adds many nodes at once, and takes them away again.
func (b *bencher) joining(ctx context.Context, s setting, subject *subject, r *result) error {
	n := min(b.join, r.Peers)
	if n == 0 {
		return nil
	}
	b.say("%s, %s registry, %d peers: %d join", r.Program, r.Registry, r.Peers, n)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	newcomers := peers(r.Peers, r.Peers+n)
	before, err := subject.rest(ctx)
	if err != nil {
		return err
	}
	all := subject.kernel.expect(entriesOf(newcomers))
	began := time.Now()
	if err := s.source.add(ctx, newcomers); err != nil {
		return err
	}
	written := time.Now()
	end, err := subject.kernel.await(ctx, all)
	if err != nil {
		return fmt.Errorf("%w; the log: %s", err, subject.tail())
	}
	after, err := subject.rest(ctx)
	if err != nil {
		return err
	}
	r.Join = &join{
		Nodes: n, Total: milliseconds(end.Sub(began)),
		// The last entry may be there before the registry's answer is here.
		After: milliseconds(max(0, end.Sub(written))), CPU: milliseconds(after - before),
	}
	if err := s.source.remove(ctx, newcomers); err != nil {
		return err
	}
	_, err = subject.rest(ctx)
	return err
}

// idling watches what the program does when it has nothing to do, and what
// when kubelets say that they are alive.
func (b *bencher) idling(ctx context.Context, s setting, subject *subject, r *result) error {
	if b.idle == 0 {
		return nil
	}
	b.say("%s, %s registry, %d peers: idle for %s", r.Program, r.Registry, r.Peers, b.idle)
	idle, err := b.share(subject, func(end <-chan time.Time) error { <-end; return nil })
	if err != nil {
		return err
	}
	r.Idle = &idle
	if _, ok := s.source.(*kubeSource); !ok {
		return nil
	}
	b.say("%s, %s registry, %d peers: heartbeats for %s", r.Program, r.Registry, r.Peers, b.idle)
	beating, err := b.share(subject, func(end <-chan time.Time) error { return heartbeats(ctx, s, r.Peers, end) })
	r.Heartbeats = &beating
	return err
}

// share is the part of one CPU that the process takes meanwhile, in percent.
func (b *bencher) share(subject *subject, meanwhile func(end <-chan time.Time) error) (float64, error) {
	before, err := subject.cpu()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := meanwhile(time.After(b.idle)); err != nil {
		return 0, err
	}
	after, err := subject.cpu()
	return 100 * float64(after-before) / float64(time.Since(began)), err
}

// heartbeats has every node say once in five minutes that it is alive, as
// kubelets do (nodeStatusReportFrequency).
func heartbeats(ctx context.Context, s setting, nodes int, end <-chan time.Time) error {
	tick := time.NewTicker(5 * time.Minute / time.Duration(nodes))
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-end:
			return nil
		case <-tick.C:
			if err := s.source.(*kubeSource).beat(ctx, peer(i%nodes)); err != nil {
				return err
			}
		}
	}
}

// restart kills the program and starts it again, with everything in the kernel
// as it should be: what it does then is looking.
func (b *bencher) restart(ctx context.Context, _ setting, subject *subject, r *result) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	subject.kill()
	if err := subject.start(); err != nil {
		return err
	}
	cpu, err := subject.rest(ctx)
	r.RestartCPU = milliseconds(cpu)
	return err
}
