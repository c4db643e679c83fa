package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
)

func anyFamily(netip.Addr) bool { return true }

// podMTU is what a pod gets, in bytes: that of the wire without the tunnel's
// headers, which over IPv4 are 20 + 8 + 8 + 14, and over IPv6 20 more.
const (
	podMTU  = wireMTU - 50
	podMTU6 = wireMTU - 70
)

// network starts the second daemon, and the first pods.
func (s *suite) network() error {
	first, second := s.cluster.nodes[0], s.cluster.nodes[1]
	err := s.must("overlayd starts, and its modules are loaded", func(ctx context.Context) (string, error) {
		if err := first.startDaemon(ctx); err != nil {
			return "", err
		}
		return strings.Join(daemonModules, " "), first.has(ctx, daemonModules...)
	})
	if err != nil {
		return err
	}
	return s.must("pods on two machines", func(ctx context.Context) (detail string, err error) {
		if s.a, err = first.addPod(ctx, "a", nil); err != nil {
			return "", err
		}
		if s.second, err = first.addPod(ctx, "second", nil); err != nil {
			return "", err
		}
		if s.b, err = second.addPod(ctx, "b", nil); err != nil {
			return "", err
		}
		return "", errors.Join(first.place().serve(ctx), second.place().serve(ctx))
	})
}

// reaches is a check of reachAs.
func (s *suite) reaches(name string, from, to place, seen []netip.Addr) {
	s.check(name, func(ctx context.Context) (string, error) { return reachAs(ctx, from, to, seen) })
}

// reaching checks who reaches whom, and how large packets may be.
func (s *suite) reaching() error {
	first, second := s.cluster.nodes[0], s.cluster.nodes[1]
	s.reaches("pod to pod, across machines", s.a.place, s.b.place, s.a.addresses)
	s.reaches("pod to pod, back", s.b.place, s.a.place, s.b.addresses)
	s.reaches("pod to pod, same machine", s.a.place, s.second.place, s.a.addresses)
	s.reaches("pod to its own machine", s.a.place, first.place(), s.a.addresses)
	s.reaches("pod to another machine, masqueraded", s.a.place, second.place(), first.addresses)
	s.reaches("pod to the outside, masqueraded", s.a.place, s.cluster.world, first.addresses)
	s.reaches("machine to its own pod", first.place(), s.a.place, anybody)
	s.reaches("machine to a pod of another one", first.place(), s.b.place, anybody)
	s.check("MTU edge, both ways", func(ctx context.Context) (string, error) { return edge(ctx, s.a, s.b, podMTU) })
	return nil
}

// netfilter checks a kernel in which bridges pass packets to iptables
// (br_netfilter), which kube-proxy once required.
func (s *suite) netfilter() error {
	n := s.cluster.nodes[1]
	var one, two *pod
	if !s.check("pods on a machine with br_netfilter", func(ctx context.Context) (detail string, err error) {
		if _, err := n.Run(ctx, "modprobe", "br_netfilter"); err != nil {
			return "", err
		}
		if one, err = n.addPod(ctx, "one", capabilities{"portMappings": []any{tcpPort}}); err != nil {
			return "", err
		}
		two, err = n.addPod(ctx, "two", nil)
		return "", err
	}) {
		return nil
	}
	s.reaches("pod to pod, same machine, br_netfilter", one.place, two.place, one.addresses)
	s.reaches("pod to pod, across machines, br_netfilter", one.place, s.a.place, one.addresses)
	s.check("host port from a pod of the machine, br_netfilter", func(ctx context.Context) (string, error) {
		var errs []error
		for _, p := range []*pod{one, two, s.a} {
			for _, a := range n.addresses {
				errs = append(errs, p.connect(ctx, netip.AddrPortFrom(a, tcpHostPort), anybody))
			}
		}
		return "", errors.Join(errs...)
	})
	s.check("these pods end", func(ctx context.Context) (string, error) {
		return "", errors.Join(one.remove(ctx), two.remove(ctx))
	})
	return nil
}
