package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/overlay-cni/overlay-cni/test/vm/internal/guest"
)

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
