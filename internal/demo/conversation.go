package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
)

// conversation is a ring of streams: every pod talks to the next one, in each
// of its address families.
type conversation struct {
	echoes  []*probe.Echo
	streams []*probe.Stream
}

// converse starts the streams and returns when all of them run.
func converse(ctx context.Context, pods []*lab.Pod) (*conversation, error) {
	c := &conversation{}
	var errs []error
	for i, pod := range pods {
		errs = append(errs, c.talk(pod, pods[(i+1)%len(pods)]))
	}
	if err := errors.Join(append(errs, c.goesOn(ctx))...); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (c *conversation) talk(from, to *lab.Pod) error {
	for _, address := range to.Addresses {
		echo, err := probe.ServeEcho(to.Netns(), netip.AddrPortFrom(address, 0))
		if err != nil {
			return err
		}
		c.echoes = append(c.echoes, echo)
		stream, err := probe.StartStream(from.Netns(), echo.Addr)
		if err != nil {
			return err
		}
		c.streams = append(c.streams, stream)
	}
	return nil
}

// goesOn returns when every stream has had some more answers.
func (c *conversation) goesOn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var errs []error
	for _, s := range c.streams {
		errs = append(errs, s.Answered(ctx, settled))
	}
	return errors.Join(errs...)
}

// end lets the streams run a little longer, stops them, and fails if they lost
// anything from their beginning on.
func (c *conversation) end(ctx context.Context) (string, error) {
	if err := c.goesOn(ctx); err != nil {
		return "", err
	}
	counts := c.stop()
	if counts.Lost > 0 || counts.Duplicated > 0 {
		return "", fmt.Errorf("%s, %d duplicated; the longest pause was %s", counts, counts.Duplicated, milliseconds(counts.Gap))
	}
	return counts.String(), nil
}

// stop ends everything and adds the streams' counts up. It may be called again.
func (c *conversation) stop() probe.Counts {
	var sum probe.Counts
	for _, s := range c.streams {
		counts := s.Stop()
		sum.Sent += counts.Sent
		sum.Lost += counts.Lost
		sum.Duplicated += counts.Duplicated
		sum.Reordered += counts.Reordered
		sum.Gap = max(sum.Gap, counts.Gap)
	}
	for _, e := range c.echoes {
		_ = e.Close() // of an open socket: can't fail
	}
	return sum
}
