package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/test/vm/internal/guest"
)

// restarts kills daemons.
func (s *suite) restarts() error {
	nodes := s.cluster.nodes[:2]
	s.check("kill -9 of both overlayds under traffic: no loss", func(ctx context.Context) (string, error) {
		return underTraffic(ctx, s.a, s.b, func() error {
			for _, n := range nodes {
				how, err := n.End(ctx, daemonName, unix.SIGKILL)
				if err != nil {
					return fmt.Errorf("kill overlayd on %s: %s, %w", n.name, how, err)
				}
			}
			p, err := nodes[0].addPod(ctx, "orphan", nil)
			if err != nil {
				return err
			}
			if _, err := reach(ctx, p.place, s.b.place); err != nil {
				return err
			}
			return errors.Join(nodes[0].startDaemon(ctx), nodes[1].startDaemon(ctx), p.remove(ctx))
		})
	})
	return nil
}

// underTraffic does something while packets flow between two pods, of which none
// may be lost.
func underTraffic(ctx context.Context, from, to *pod, do func() error) (string, error) {
	var streams []int
	for _, a := range to.addresses {
		stream, err := from.StartStream(ctx, from.target(a, guest.EchoPort))
		if err != nil {
			return "", err
		}
		streams = append(streams, stream)
	}
	err := do()
	detail := ""
	for _, number := range streams {
		counts, stopped := from.StopStream(ctx, number)
		err = errors.Join(err, stopped)
		if counts.Lost > 0 {
			err = errors.Join(err, fmt.Errorf("%s packets", counts))
		}
		detail += counts.String() + " "
	}
	return detail, err
}

// joining adds the third node.
func (s *suite) joining() error {
	n := s.cluster.nodes[2]
	var c *pod
	if err := s.must("a machine joins, with a pod", func(ctx context.Context) (detail string, err error) {
		if err := errors.Join(s.cluster.register(ctx, s.cluster.nodes, anyFamily), n.startDaemon(ctx)); err != nil {
			return "", err
		}
		c, err = n.addPod(ctx, "c", nil)
		return "", err
	}); err != nil {
		return err
	}
	s.reaches("pod to pod, from there", c.place, s.a.place, c.addresses)
	s.reaches("pod to pod, to there", s.b.place, c.place, s.b.addresses)
	return nil
}

// powerCut turns a machine off without a warning, and on again.
func (s *suite) powerCut() error {
	n := s.cluster.nodes[1]
	if err := s.must("power cut, boot, pod: the others don't notice", func(ctx context.Context) (string, error) {
		return underTraffic(ctx, s.a, s.second, func() error {
			if err := n.vm.Kill(); err != nil {
				return err
			}
			if err := s.cluster.boot(ctx, n); err != nil {
				return err
			}
			if err := errors.Join(n.lacks(ctx, daemonModules...), s.cluster.register(ctx, s.cluster.nodes, anyFamily), n.startDaemon(ctx)); err != nil {
				return err
			}
			var err error
			s.b, err = n.addPod(ctx, "b", nil)
			return errors.Join(err, n.place().serve(ctx))
		})
	}); err != nil {
		return err
	}
	s.check("a reboot frees addresses", func(context.Context) (string, error) {
		for i, a := range s.b.addresses {
			if gateway := n.subnets[i].Addr().Next(); a != gateway.Next() {
				return "", fmt.Errorf("the first pod has %s, not the first address of %s after the gateway's", a, n.subnets[i])
			}
		}
		return "", nil
	})
	s.reaches("pod to pod, to the machine that was off", s.a.place, s.b.place, s.a.addresses)
	s.reaches("pod to pod, from there", s.b.place, s.a.place, s.b.addresses)
	return nil
}

// leaving takes a node, and then all pods, away.
func (s *suite) leaving() error {
	first, third := s.cluster.nodes[0], s.cluster.nodes[2]
	s.check("a node leaves: nothing of it stays", func(ctx context.Context) (string, error) {
		if err := s.cluster.register(ctx, s.cluster.nodes[:2], anyFamily); err != nil {
			return "", err
		}
		return "", eventually(ctx, func() error { return first.forgot(ctx, third) })
	})
	s.check("the pods of a machine end: nothing of them stays", func(ctx context.Context) (string, error) {
		if err := errors.Join(s.a.remove(ctx), s.second.remove(ctx)); err != nil {
			return "", err
		}
		return "", first.empty(ctx)
	})
	return nil
}

// forgot fails if a node has routes or neighbours of another one.
func (n *node) forgot(ctx context.Context, gone *node) error {
	for _, command := range [][]string{{"ip", "route"}, {"ip", "-6", "route"}, {"ip", "neighbour"}, {"bridge", "fdb"}} {
		out, err := n.Run(ctx, command...)
		if err != nil {
			return err
		}
		for _, s := range gone.subnets {
			if strings.Contains(out, strings.TrimSuffix(s.Addr().String(), "0")) {
				return fmt.Errorf("%s of %s mentions %s:\n%s", strings.Join(command, " "), n.name, s, out)
			}
		}
	}
	return nil
}

// empty fails if something of a pod is left on a node.
func (n *node) empty(ctx context.Context) error {
	for _, command := range [][]string{
		{"ip", "-oneline", "link", "show", "type", "veth"},
		{"busybox", "ls", runDir + "/addresses"},
		{"busybox", "ls", runDir + "/attachments"},
	} {
		out, err := n.Run(ctx, command...)
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("%s of %s shows:\n%s", strings.Join(command, " "), n.name, out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
