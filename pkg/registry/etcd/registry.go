package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// Registry is the nodes in etcd, with this host among them.
type Registry struct {
	opts     Options // complete
	timing   timing
	keys     keys
	instance string // tells this process from an earlier one and from a twin
	hold     hold   // of the goroutine that runs the sessions
	changed  chan struct{}
	moved    chan struct{} // the addresses were set
	cancel   context.CancelFunc
	done     chan struct{}

	mu        sync.Mutex
	addresses []netip.Addr
	shown     *registry.Set // nil before the first full list
	settings  []byte
	problem   error // etcd answers, but this host or the configuration is not as it should be
	failure   error // why etcd can't be asked
}

// timing is how long to wait for what.
type timing struct {
	// request is for one request. An election takes one to two seconds, and a
	// list of 20,000 nodes over a slow line a few.
	request time.Duration
	// heartbeat is how often to ask whether the watch is alive when nothing
	// came through it; after one more without an answer it is not. etcd closes
	// connections that are probed more often than every 5 s.
	heartbeat time.Duration
	// again is how often to try what others have to mend, such as a network
	// without a free subnet. Most of it is noticed when it happens.
	again time.Duration
	// A session that failed is followed by another one after firstRetry, then
	// twice as long every time up to lastRetry, less a random part: all hosts
	// of a cluster lose etcd together, and each lists everything when it is
	// back.
	firstRetry, lastRetry time.Duration
}

func defaultTiming() timing {
	return timing{
		request:    10 * time.Second,
		heartbeat:  15 * time.Second,
		again:      10 * time.Second,
		firstRetry: 500 * time.Millisecond,
		lastRetry:  30 * time.Second,
	}
}

// New begins to read the nodes and to register this host, which needs its
// addresses (SetAddresses) and that etcd answers. It doesn't wait for etcd, and
// errors of it are what Nodes returns.
func New(o Options) (*Registry, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	return open(o, defaultTiming())
}

func open(o Options, t timing) (*Registry, error) {
	o, err := o.identified()
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(o.Endpoints[0], "http:") && o.User != "" {
		o.Log.Warn("the password for etcd is sent without encryption", "endpoints", o.Endpoints)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Registry{
		opts: o, timing: t, keys: keys{o.Prefix}, instance: rand.Text(),
		changed: make(chan struct{}, 1), moved: make(chan struct{}, 1),
		cancel: cancel, done: make(chan struct{}),
	}
	go r.run(ctx)
	return r, nil
}

// Nodes returns all nodes, and beside them what is wrong: with etcd, with the
// configuration, with this host's entry, with other nodes. Those that can't be
// used are left out, so that one bad host doesn't stop the others.
func (r *Registry) Nodes() ([]registry.Node, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	trouble := errors.Join(r.failure, r.problem)
	if r.shown == nil {
		if trouble == nil {
			return nil, registry.ErrNotReady
		}
		return nil, fmt.Errorf("%w: %w", registry.ErrNotReady, trouble)
	}
	nodes, err := r.shown.Nodes()
	if err != nil {
		err = fmt.Errorf("some nodes are left out or as they were: %w", err)
	}
	return nodes, errors.Join(trouble, err)
}

// Changed gets a value when the nodes, the settings or the error became
// different ones.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Settings returns what all hosts share of the daemon's settings, as a YAML
// document with their lines and columns in the configuration; nil if there are
// none. It is known as soon as Nodes returns nodes.
func (r *Registry) Settings() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settings
}

// SetAddresses says by which addresses the other hosts reach this one, at most
// one a family. Before the first call the host isn't registered anew. Setting
// the same ones again does nothing, and none leaves those that were set.
func (r *Registry) SetAddresses(addrs []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(addrs) == 0 || slices.Equal(addrs, r.addresses) {
		return
	}
	r.addresses = slices.Clone(addrs)
	notify(r.moved)
}

// Close ends the connection to etcd. This host stays registered until its lease
// ends, so a daemon that starts again has the subnets it had. Nodes goes on
// answering what it did before.
func (r *Registry) Close() error {
	r.cancel()
	<-r.done
	return nil
}

// run has one session after the other until Close. A session that fails in any
// way is thrown away with its connections, its watch and its password.
func (r *Registry) run(ctx context.Context) {
	defer close(r.done)
	var delay time.Duration
	for ctx.Err() == nil {
		started := time.Now()
		err := r.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, errCompacted) {
			r.fail(fmt.Errorf("etcd (%s): %w", strings.Join(r.opts.Endpoints, ", "), err))
		}
		if time.Since(started) > r.timing.lastRetry {
			delay = 0 // it worked for a while
		}
		delay = min(max(2*delay, r.timing.firstRetry), r.timing.lastRetry)
		pause(ctx, delay/2, delay)
	}
}

// fail shows why etcd can't be asked. What was known before stays.
func (r *Registry) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text(err) != text(r.failure) {
		notify(r.changed)
	}
	r.failure = err
}

// show makes a session's set the one that Nodes returns, with what is wrong
// beside it. Without a configuration the set isn't believed: somebody may have
// begun with an empty cluster in place of the old one.
func (r *Registry) show(s *session, problem error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text(problem) != text(r.problem) || r.failure != nil {
		notify(r.changed)
	}
	r.problem, r.failure = problem, nil
	if r.hold.config == nil || s.configRevision == 0 {
		return
	}
	if r.shown != s.set || !slices.Equal(r.settings, r.hold.config.settings) {
		notify(r.changed)
	}
	r.shown, r.settings = s.set, r.hold.config.settings
}

func (r *Registry) wantedAddresses() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addresses
}

// notify puts a value into a channel that holds one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // the reader has not come for the last one yet
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
