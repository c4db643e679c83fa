package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/family"
	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// pings is how many round trips a measurement takes.
const pings = 9

// check runs one check and prints its line. It returns an error only when the
// show has been called off.
func (s *show) check(ctx context.Context, name string, do func(context.Context) (detail string, err error)) error {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	detail, err := do(bounded)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.table.row(name, detail, err)
	return nil
}

// trip is a way that packets are to go.
type trip struct {
	name string
	from *sandbox.Netns
	to   []netip.Addr
}

// reach checks who can talk to whom.
func (s *show) reach(ctx context.Context) error {
	var errs []error
	for _, t := range s.trips() {
		errs = append(errs, s.check(ctx, t.name, t.measure))
	}
	errs = append(errs, s.check(ctx, "pod to outside, masqueraded: a1", s.outside))
	return errors.Join(errs...)
}

func (s *show) trips() []trip {
	a, b := s.hosts[0], s.hosts[1]
	a1, a2 := a.Pods()[0], a.Pods()[1]
	trips := []trip{{"pod to pod, same host: a1 > a2", a1.Netns(), a2.Addresses}}
	for _, from := range s.firstPods() {
		for _, to := range s.firstPods() {
			if from != to {
				name := fmt.Sprintf("pod to pod, across hosts: %s > %s", from.Name, to.Name)
				trips = append(trips, trip{name, from.Netns(), to.Addresses})
			}
		}
	}
	return append(trips,
		trip{"pod to its own host: a1 > host-a", a1.Netns(), a.Addresses()},
		trip{"pod to another host: a1 > host-b", a1.Netns(), b.Addresses()},
	)
}

// firstPods is one pod of each host that has any.
func (s *show) firstPods() []*lab.Pod {
	var pods []*lab.Pod
	for _, h := range s.hosts {
		pods = append(pods, h.Pods()[:min(1, len(h.Pods()))]...)
	}
	return pods
}

// measure pings every address and returns the median round-trip times.
func (t trip) measure(ctx context.Context) (string, error) {
	var details []string
	for _, to := range t.to {
		rtt, err := medianPing(ctx, t.from, to)
		if err != nil {
			return "", err
		}
		details = append(details, milliseconds(rtt)+" "+family.Of(to).String())
	}
	return "RTT " + strings.Join(details, ", "), nil
}

// medianPing fails on any lost answer after the first one.
func medianPing(ctx context.Context, from *sandbox.Netns, to netip.Addr) (time.Duration, error) {
	if err := firstPing(ctx, from, to); err != nil {
		return 0, err
	}
	var rtts []time.Duration
	for range pings {
		rtt, err := ping(ctx, from, to)
		if err != nil {
			return 0, err
		}
		rtts = append(rtts, rtt)
	}
	slices.Sort(rtts)
	return rtts[len(rtts)/2], nil
}

// firstPing waits for an answer: an overlayd may not know the others yet.
func firstPing(ctx context.Context, from *sandbox.Netns, to netip.Addr) error {
	return probe.Eventually(ctx, func(ctx context.Context) error {
		_, err := probe.Ping(ctx, from, to)
		return err
	})
}

// ping gives up after a second, which is long on one machine.
func ping(ctx context.Context, from *sandbox.Netns, to netip.Addr) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return probe.Ping(ctx, from, to)
}

// outside checks that the outside sees a pod under its host's address. It could
// not answer the pod's own address: it has no route to pods.
func (s *show) outside(ctx context.Context) (string, error) {
	host := s.hosts[0]
	pod := host.Pods()[0]
	var details []string
	for _, world := range s.lab.Outside() {
		source, err := s.seenBy(ctx, world, pod)
		if err != nil {
			return "", err
		}
		if !slices.Contains(host.Addresses(), source) {
			return "", fmt.Errorf("%s sees %s as %s, not as its host %s", world, pod.Name, source, list(host.Addresses()))
		}
		details = append(details, fmt.Sprintf("%s sees %s", world, source))
	}
	return strings.Join(details, ", "), nil
}

// seenBy asks a server outside which source address a pod has.
func (s *show) seenBy(ctx context.Context, world netip.Addr, pod *lab.Pod) (netip.Addr, error) {
	mirror, err := probe.ServeMirror(s.lab.Switch(), netip.AddrPortFrom(world, 0))
	if err != nil {
		return netip.Addr{}, err
	}
	defer mirror.Close()
	seen, err := probe.TCP(ctx, pod.Netns(), mirror.Addr)
	return seen.Source.Addr(), err
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
