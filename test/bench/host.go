package main

import (
	"errors"
	"fmt"
	"sync"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// host is a machine: a network namespace, threads in it that do what a
// container runtime does, and the namespaces of its pods.
type host struct {
	ns   *sandbox.Netns
	jobs chan func()
	pods []*pod
}

// pod is a network namespace that waits to be connected. It is not held open:
// the price of starting a process grows with the files that this one has open.
type pod struct {
	index  int
	id     string
	netns  string // path
	result []byte // of ADD
}

// in runs fn in the pod's namespace.
func (p *pod) in(fn func() error) error {
	ns, err := sandbox.OpenNetns(p.netns)
	if err != nil {
		return err
	}
	return errors.Join(ns.Do(fn), ns.Close())
}

// hostPort is the port of the host that the pod gets where it gets one.
func (p *pod) hostPort() int { return firstHostPort + p.index }

const (
	firstHostPort = 20_000
	containerPort = 80
	// maxPods keeps the addresses of all sets within a /22.
	maxPods = 1000
)

// newHost makes a host with threads and pods.
func newHost(name string, threads, pods int) (*host, error) {
	ns, err := sandbox.CreateNetns(name)
	if err != nil {
		return nil, err
	}
	h := &host{ns: ns, jobs: make(chan func())}
	if err := h.start(threads); err != nil {
		return nil, err
	}
	return h, h.grow(pods)
}

// start starts threads that stay in the host's namespace.
func (h *host) start(n int) error {
	ready := make(chan error, n)
	for range n {
		go func() {
			err := h.ns.Do(func() error {
				ready <- nil
				for job := range h.jobs {
					job()
				}
				return nil
			})
			if err != nil {
				ready <- err
			}
		}()
	}
	var errs []error
	for range n {
		errs = append(errs, <-ready)
	}
	return errors.Join(errs...)
}

// grow makes pods until there are n.
func (h *host) grow(n int) error {
	for i := len(h.pods); i < n; i++ {
		name := fmt.Sprintf("%s-%d", h.ns.Name(), i)
		ns, err := sandbox.CreateNetns(name)
		if err != nil {
			return err
		}
		if err := ns.Close(); err != nil {
			return err
		}
		// As long as the ids of container runtimes are.
		h.pods = append(h.pods, &pod{index: i, id: fmt.Sprintf("%064x", i), netns: ns.Path()})
	}
	return nil
}

// do runs fn on one of the host's threads.
func (h *host) do(fn func() error) error {
	done := make(chan error, 1)
	h.jobs <- func() { done <- fn() }
	return <-done
}

// all runs fn for all pods at once, as far as there are threads.
func (h *host) all(pods []*pod, fn func(*pod)) {
	var running sync.WaitGroup
	running.Add(len(pods))
	for _, p := range pods {
		h.jobs <- func() {
			defer running.Done()
			fn(p)
		}
	}
	running.Wait()
}
