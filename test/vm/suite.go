package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// patience bounds a check. On a machine that does nothing else the longest takes
// ten seconds, but machines in which CI runs have been seen to take a minute.
const patience = 3 * time.Minute

// suite is a run of all checks.
type suite struct {
	ctx     context.Context
	table   *table
	cluster *cluster
	// what the checks have made so far
	a, b   *pod // on the first two nodes
	second *pod // on the first node, beside a
}

// check runs one check, prints its line, and tells whether it went well.
func (s *suite) check(name string, do func(context.Context) (detail string, err error)) bool {
	ctx, cancel := context.WithTimeoutCause(s.ctx, patience, fmt.Errorf("not within %v", patience))
	defer cancel()
	start := time.Now()
	detail, err := do(ctx)
	if s.ctx.Err() != nil {
		return false // called off, which proves nothing
	}
	s.table.row(name, time.Since(start), detail, err)
	return err == nil
}

// errStop ends the suite: what comes next needs what failed.
var errStop = errors.New("the checks that follow need what failed: they were not run")

// must is check for what later checks need.
func (s *suite) must(name string, do func(context.Context) (detail string, err error)) error {
	if !s.check(name, do) {
		return errStop
	}
	return nil
}

// run runs all parts. It stops after a failure of a part that later ones need.
func (s *suite) run() error {
	s.table.header()
	for _, part := range []func() error{
		s.boot, s.modules, s.network, s.reaching, s.hostPorts, s.offload, s.netfilter, s.powerCut, s.overIPv6,
	} {
		err := part()
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if err != nil {
			s.table.stopped(err)
			break
		}
	}
	if s.table.failed > 0 {
		s.cluster.autopsy(s.ctx)
	}
	return s.table.end()
}

// boot turns on all machines at once.
func (s *suite) boot() error {
	for i := range byte(2) {
		s.cluster.nodes = append(s.cluster.nodes, newNode(i+1))
	}
	return s.must("two machines boot", func(ctx context.Context) (string, error) {
		err := s.cluster.each(func(n *node) error { return s.cluster.boot(ctx, n) })
		return "Linux " + s.cluster.image.Release, err
	})
}

// each does something on all nodes at once.
func (c *cluster) each(do func(*node) error) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = do(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// autopsy writes what is known of each machine into a file.
func (c *cluster) autopsy(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_ = c.each(func(n *node) error {
		if n.Client == nil {
			return nil // it was never on
		}
		var text strings.Builder
		for _, command := range [][]string{
			{"busybox", "cat", "/run/log/" + daemonName},
			{"ip", "-d", "address"}, {"ip", "route"}, {"ip", "-6", "route"}, {"ip", "neighbour"},
			{"bridge", "-d", "link"}, {"bridge", "fdb"}, {"nft", "list", "ruleset"},
			{"busybox", "lsmod"}, {"busybox", "dmesg"},
		} {
			out, err := n.Run(ctx, command...)
			fmt.Fprintf(&text, "# %s\n%s\n", strings.Join(command, " "), out)
			if err != nil {
				fmt.Fprintf(&text, "%v\n", err)
			}
		}
		return os.WriteFile(c.file(n, "state"), []byte(text.String()), 0o644)
	})
}
