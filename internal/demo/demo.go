package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab"
)

const (
	// mtu of the wire between the hosts: Ethernet's.
	mtu = 1500
	// patience bounds each check. All of them together take a few seconds.
	patience = 15 * time.Second
	// tailLines of each overlayd's log are shown if a check failed.
	tailLines = 15
)

// Options says what to show, and where.
type Options struct {
	Daemon string    // path of overlayd
	Plugin string    // path of overlay-cni
	Out    io.Writer // gets the table
}

// FailedError says how many checks failed. The table has told which and why.
type FailedError struct{ Failed, Checks int }

func (e *FailedError) Error() string {
	return fmt.Sprintf("%d of %d checks failed", e.Failed, e.Checks)
}

// Run plays the demo, which has to be done in a sandbox, and returns a
// *FailedError if any check failed. It ends early, and cleans up, when ctx does.
func Run(ctx context.Context, o Options) (err error) {
	for what, path := range map[string]string{"daemon": o.Daemon, "CNI plugin": o.Plugin} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("find the %s: %w: build it with make build", what, err)
		}
	}
	// Not /tmp: the sandbox's own /run goes with it even if this is killed.
	dir, err := os.MkdirTemp("/run", "demo-")
	if err != nil {
		return fmt.Errorf("make the demo's folder: %w", err)
	}
	l, err := lab.New(configuration(o, dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close(), os.RemoveAll(dir)) }()
	return (&show{lab: l, out: o.Out, table: table{out: o.Out}}).play(ctx)
}

// configuration is one family of addresses for each prefix listed.
func configuration(o Options, dir string) lab.Config {
	return lab.Config{
		Dir:         dir,
		Segments:    []netip.Prefix{netip.MustParsePrefix("192.168.77.254/24"), netip.MustParsePrefix("fd77::fe/64")},
		Outside:     []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")}, // RFC 5737, 3849: of examples
		PodNetworks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd44::/48")},
		MTU:         mtu,
		Daemon:      o.Daemon,
		Plugin:      o.Plugin,
	}
}

// show is a demo under way.
type show struct {
	lab     *lab.Lab
	out     io.Writer
	table   table
	hosts   []*lab.Host   // in the registry
	daemons []*lab.Daemon // ever started
}

func (s *show) play(ctx context.Context) error {
	start := time.Now()
	err := s.acts(ctx)
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("the demo was interrupted: %w", ctx.Err())
	}
	if err == nil && s.table.failed == 0 {
		fmt.Fprintf(s.out, "\nAll %d checks ok, in %.1f s.\n", s.table.checks, time.Since(start).Seconds())
		return nil
	}
	s.logs()
	if err == nil {
		err = &FailedError{Failed: s.table.failed, Checks: s.table.checks}
	}
	return err
}

// acts returns an error only if the show can't continue.
func (s *show) acts(ctx context.Context) error {
	if err := s.setUp(ctx); err != nil {
		return err
	}
	s.describe()
	s.table.header()
	for _, act := range []func(context.Context) error{s.reach, s.join, s.leave} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// setUp starts three hosts. None waits for another one.
func (s *show) setUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, name := range []string{"host-a", "host-b", "host-c"} {
		h, err := s.lab.AddHost(name)
		if err != nil {
			return err
		}
		s.hosts = append(s.hosts, h)
	}
	if err := s.lab.Register(s.hosts...); err != nil {
		return err
	}
	for _, h := range s.hosts {
		if err := s.boot(ctx, h); err != nil {
			return err
		}
	}
	_, err := s.hosts[0].AddPod(ctx, lab.PodSpec{Name: "a2"})
	return err
}

// boot starts a host's overlayd and its first pod: a1 on host-a.
func (s *show) boot(ctx context.Context, h *lab.Host) error {
	_, err := h.StartDaemon(ctx)
	if d := h.Daemon(); d != nil {
		s.daemons = append(s.daemons, d)
	}
	if err != nil {
		return err
	}
	_, err = h.AddPod(ctx, lab.PodSpec{Name: strings.TrimPrefix(h.Name, "host-") + "1"})
	return err
}

// describe prints what was set up.
func (s *show) describe() {
	fmt.Fprintf(s.out, "%d hosts (network namespaces) on one wire with MTU %d, overlayd on each:\n\n", len(s.hosts), mtu)
	for _, h := range s.hosts {
		var pods []string
		for _, p := range h.Pods() {
			pods = append(pods, p.Name+" "+list(p.Addresses))
		}
		fmt.Fprintf(s.out, "  %s  %s  pods %s: %s\n", h.Name, list(h.Addresses()), list(h.Subnets()), strings.Join(pods, ", "))
	}
	fmt.Fprintln(s.out)
}

// logs shows how the logs of all overlayds end.
func (s *show) logs() {
	for _, d := range s.daemons {
		fmt.Fprintf(s.out, "\nThe log of overlayd on %s ends with:\n", d.Host())
		for _, line := range d.Log.Tail(tailLines) {
			fmt.Fprintf(s.out, "  %s\n", line)
		}
	}
}

// list joins what prints itself: 10.244.1.2+fd00::2.
func list[T fmt.Stringer](items []T) string {
	var texts []string
	for _, item := range items {
		texts = append(texts, item.String())
	}
	return strings.Join(texts, "+")
}
