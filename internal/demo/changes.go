package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// settled is how many packets of each stream have to be answered before and
// after a change, so that the change lies within the stream.
const settled = 50

// join adds host-d while the others talk.
func (s *show) join(ctx context.Context) error {
	return s.whileTalking(ctx, s.firstPods(), change{"host-d joins: d1 > a1 and back", s.joinHost})
}

// leave takes host-c away while the others talk.
func (s *show) leave(ctx context.Context) error {
	gone := s.lab.Host("host-c")
	staying := slices.DeleteFunc(s.firstPods(), func(p *lab.Pod) bool { return p.Host == gone })
	return s.whileTalking(ctx, staying, change{"host-c leaves: the others' routes to it", func(ctx context.Context) (string, error) {
		return s.removeHost(ctx, gone)
	}})
}

// change is something that happens to the cluster.
type change struct {
	name string
	do   func(context.Context) (detail string, err error)
}

// whileTalking makes the change between the first and the last packets of
// streams between the pods, and checks both.
func (s *show) whileTalking(ctx context.Context, pods []*lab.Pod, c change) error {
	talk, err := converse(ctx, pods)
	if err != nil {
		return s.check(ctx, c.name, func(context.Context) (string, error) { return "", err })
	}
	defer talk.stop()
	meanwhile := fmt.Sprintf("  meanwhile: %d streams of the others", len(talk.streams))
	return errors.Join(s.check(ctx, c.name, c.do), s.check(ctx, meanwhile, talk.end))
}

func (s *show) joinHost(ctx context.Context) (string, error) {
	h, err := s.lab.AddHost("host-d")
	if err != nil {
		return "", err
	}
	start := time.Now()
	s.hosts = append(s.hosts, h)
	if err := s.lab.Register(s.hosts...); err != nil {
		return "", err
	}
	if err := s.boot(ctx, h); err != nil {
		return "", err
	}
	if err := reachBothWays(ctx, h.Pods()[0], s.hosts[0].Pods()[0]); err != nil {
		return "", err
	}
	return "after " + milliseconds(time.Since(start)), nil
}

func reachBothWays(ctx context.Context, a, b *lab.Pod) error {
	for _, t := range []trip{{from: a.Netns(), to: b.Addresses}, {from: b.Netns(), to: a.Addresses}} {
		for _, to := range t.to {
			if err := firstPing(ctx, t.from, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeHost shuts a host down in the orderly way: overlayd ends, the registry
// forgets the host, the machine goes.
func (s *show) removeHost(ctx context.Context, gone *lab.Host) (string, error) {
	others := without(s.hosts, gone)
	if err := expectRoutes(others, gone.Subnets(), len(others)*len(gone.Subnets())); err != nil {
		return "", err
	}
	if err := gone.Daemon().Stop(ctx); err != nil {
		return "", err
	}
	start := time.Now()
	s.hosts = others
	if err := s.lab.Register(s.hosts...); err != nil {
		return "", err
	}
	err := probe.Eventually(ctx, func(context.Context) error { return expectRoutes(others, gone.Subnets(), 0) })
	took := time.Since(start)
	if err := errors.Join(err, gone.Remove()); err != nil {
		return "", err
	}
	return "gone after " + milliseconds(took), nil
}

func without(hosts []*lab.Host, gone *lab.Host) []*lab.Host {
	return slices.DeleteFunc(slices.Clone(hosts), func(h *lab.Host) bool { return h == gone })
}

// expectRoutes counts the routes that the hosts have to the subnets.
func expectRoutes(hosts []*lab.Host, subnets []netip.Prefix, want int) error {
	var have []string
	for _, h := range hosts {
		for _, subnet := range subnets {
			has, err := h.HasRoute(subnet)
			if err != nil {
				return err
			}
			if has {
				have = append(have, h.Name+" to "+subnet.String())
			}
		}
	}
	if len(have) != want {
		return fmt.Errorf("%d routes (%s), but %d are expected", len(have), strings.Join(have, ", "), want)
	}
	return nil
}
