package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/pkg/subnet"
)

// Names of the places where loads run: where the two ends are.
const (
	twoHosts = "two hosts"
	oneHost  = "one host"
)

var places = []string{twoHosts, oneHost}

// path is where a load runs: from one namespace to an address of another one.
type path struct {
	client, server *sandbox.Netns
	addr           netip.Addr // the server's
}

// set is one way to join pods, with two hosts of its own.
type set struct {
	name  string
	paths map[string]path // one for each place
	note  string          // why nothing is measured; else empty
	io.Closer
}

// maker makes a set.
type maker struct {
	name string
	make func(o options, name string) (*stage, map[string]path, error)
}

// yardstick is the set that others are compared with.
const yardstick = "host to host"

// ownMakers are the sets that come with the program. Another one is a line here, or
// a --set if only programs or flags are different.
var ownMakers = []maker{
	{yardstick, direct},
	{"plain VXLAN", plain},
	{"flannel's set-up", flannel},
	{"overlay-cni", func(o options, name string) (*stage, map[string]path, error) { return productIn(o.dir)(o, name) }},
}

// makeSets makes the sets that the options ask for, and proves that they carry traffic.
// A set that can't be had says why, and leaves the others alone.
func makeSets(o options) ([]*set, error) {
	makers, err := o.makers()
	if err != nil {
		return nil, err
	}
	var sets []*set
	for _, m := range makers {
		if !o.wants(m.name) {
			continue
		}
		s := &set{name: m.name}
		stage, paths, err := m.make(o, m.name)
		if stage != nil {
			s.Closer = stage
		}
		if s.paths = paths; err == nil {
			err = s.prove(startTime)
		}
		if err != nil {
			s.note = err.Error()
		}
		if err != nil && m.name == yardstick {
			return nil, fmt.Errorf("%s: %w", yardstick, err)
		}
		sets = append(sets, s)
	}
	return sets, nil
}

func closeSets(sets []*set) error {
	var errs []error
	for _, s := range sets {
		if s.Closer != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// direct is two namespaces joined by a veth pair: two hosts, and what two pods of one
// host are at best.
func direct(o options, name string) (*stage, map[string]path, error) {
	s, err := newStage(o, name, o.dir)
	if err != nil {
		return nil, nil, err
	}
	return s, map[string]path{twoHosts: s.hostPath(), oneHost: s.hostPath()}, nil
}

// plain is bridges and a VXLAN device, with routing and without any rule.
func plain(o options, name string) (*stage, map[string]path, error) {
	return byHand(o, name, tunnel{name: "vxlan0", port: 4789}, nil)
}

// flannel is what flanneld with the backend vxlan and its plugin leave on a host.
func flannel(o options, name string) (*stage, map[string]path, error) {
	return byHand(o, name, tunnel{name: "flannel.1", port: 8472}, (*stage).flannelRules)
}

// byHand is two hosts with two pods on the first one and one on the second one. Rules
// are added to each host.
func byHand(o options, name string, t tunnel, rules func(s *stage, host int) error) (*stage, map[string]path, error) {
	s, err := newStage(o, name, o.dir)
	if err != nil {
		return nil, nil, err
	}
	for i := range s.hosts {
		err := s.route(i, t)
		if err == nil && rules != nil {
			err = rules(s, i)
		}
		if err != nil {
			return s, nil, fmt.Errorf("set up %s: %w", hostNames[i], err)
		}
	}
	var pods []end
	for _, p := range podNames {
		addr := subnet.Gateway(s.subnets[p.host])
		for range p.number {
			addr = addr.Next()
		}
		ns, err := s.addPod(p.host, p.name(), addr)
		if err != nil {
			return s, nil, err
		}
		pods = append(pods, end{ns, addr})
	}
	return s, podPaths(pods), nil
}

// podName is the number of a pod on a host.
type podName struct{ host, number int }

// podNames are each set's pods: see podPaths.
var podNames = []podName{{0, 1}, {0, 2}, {1, 1}}

func (p podName) name() string { return fmt.Sprintf("%c%d", 'a'+p.host, p.number) }

// end is a pod.
type end struct {
	ns   *sandbox.Netns
	addr netip.Addr
}

// podPaths lead from the first pod to the others: its neighbour, and the one on the
// other host.
func podPaths(pods []end) map[string]path {
	return map[string]path{
		oneHost:  {client: pods[0].ns, server: pods[1].ns, addr: pods[1].addr},
		twoHosts: {client: pods[0].ns, server: pods[2].ns, addr: pods[2].addr},
	}
}

// productIn makes sets of the programs in a folder, with further flags of overlayd.
func productIn(dir string, flags ...string) func(o options, name string) (*stage, map[string]path, error) {
	return func(o options, name string) (*stage, map[string]path, error) {
		s, err := newStage(o, name, dir, flags...)
		if err != nil {
			return nil, nil, err
		}
		paths, err := s.runProduct()
		return s, paths, err
	}
}

// startTime bounds the start of overlayd and of pods, which takes milliseconds.
const startTime = time.Minute

func (s *stage) runProduct() (map[string]path, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	if err := s.register(); err != nil {
		return nil, err
	}
	for _, h := range s.hosts {
		if _, err := h.StartDaemon(ctx); err != nil {
			return nil, fmt.Errorf("%w (make bench-path builds overlayd)", err)
		}
	}
	var pods []end
	for _, p := range podNames {
		pod, err := s.hosts[p.host].AddPod(ctx, lab.PodSpec{Name: p.name()})
		if err != nil {
			return nil, err
		}
		pods = append(pods, end{pod.Netns(), pod.Addresses[0]})
	}
	return podPaths(pods), nil
}
