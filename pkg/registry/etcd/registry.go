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

// Registry reads the nodes from etcd and registers this host there.
type Registry struct {
	opts        Options // complete
	timing      timing
	keys        keys
	instance    string  // identifies this process among all that use the host's name
	process     process // used only by the goroutine that runs the sessions
	changed     chan struct{}
	readdressed chan struct{} // the addresses were set
	cancel      context.CancelFunc
	done        chan struct{}

	mu        sync.Mutex
	addresses []netip.Addr
	shown     *registry.Set // nil before the first full list
	settings  []byte
	problem   error // with this host or the configuration, while etcd answers
	failure   error // why etcd doesn't answer
}

// timing holds timeouts and waits.
type timing struct {
	// request is the timeout of one request. An election takes one to two seconds, a
	// list of 20,000 nodes over a slow line a few seconds.
	request time.Duration
	// slow is how long the first list may take before Nodes says that etcd doesn't
	// answer: whoever starts a host with a wrong endpoint is told in time.
	slow time.Duration
	// heartbeat is how long the watch may be silent before the session asks etcd for
	// a sign of life. Without an answer within another heartbeat the watch is dead.
	// etcd closes connections that are probed more often than every 5 s.
	heartbeat time.Duration
	// again is how long to wait before trying again after a problem that somebody
	// else has to resolve, such as a network without a free subnet. Most solutions
	// arrive earlier, through the watch.
	again time.Duration
	// After a failed session the next one begins after firstRetry. The wait doubles
	// with every further failure, up to lastRetry. A random part of up to half the
	// wait is left out: all hosts of a cluster lose etcd at the same moment, and each
	// lists everything when etcd is back.
	firstRetry, lastRetry time.Duration
}

func defaultTiming() timing {
	return timing{
		request:    10 * time.Second,
		slow:       2 * time.Second,
		heartbeat:  15 * time.Second,
		again:      10 * time.Second,
		firstRetry: 500 * time.Millisecond,
		lastRetry:  30 * time.Second,
	}
}

// New begins to read the nodes and to register this host. Registering waits for the
// host's addresses (SetAddresses). New doesn't wait for etcd. Nodes returns etcd's
// errors.
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
		changed: make(chan struct{}, 1), readdressed: make(chan struct{}, 1),
		cancel: cancel, done: make(chan struct{}),
	}
	go r.run(ctx)
	return r, nil
}

// Nodes returns all usable nodes. The error beside them says what is wrong with
// etcd, with the configuration, with this host's entry and with other nodes. One bad
// node doesn't stop the others.
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
		err = fmt.Errorf("some nodes are left out, or keep their last good entry: %w", err)
	}
	return nodes, errors.Join(trouble, err)
}

// Changed gets a value when the nodes, the settings or the error changed.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Settings returns the daemon's settings that all hosts share, as a YAML document,
// or nil. The settings have the same lines and columns as in the configuration.
// They are known as soon as Nodes returns nodes.
func (r *Registry) Settings() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settings
}

// SetAddresses sets the addresses by which other hosts reach this host, at most one
// of each family. Without a call, the registry does not register a new host. An
// empty list, or the same addresses again, change nothing.
func (r *Registry) SetAddresses(addrs []netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(addrs) == 0 || slices.Equal(addrs, r.addresses) {
		return
	}
	r.addresses = slices.Clone(addrs)
	notify(r.readdressed)
}

// Close ends the connection to etcd. This host stays registered until its lease
// ends, so a daemon that starts again has the same subnets. Nodes keeps returning
// its last result.
func (r *Registry) Close() error {
	r.cancel()
	<-r.done
	return nil
}

// run runs one session after the other until Close. Each session has a connection,
// a watch and a password of its own, so a new session recovers from any failure.
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
			r.fail(err)
		}
		if time.Since(started) > r.timing.lastRetry {
			delay = 0 // it worked for a while
		}
		delay = min(max(2*delay, r.timing.firstRetry), r.timing.lastRetry)
		pause(ctx, delay/2, delay)
	}
}

// fail records why etcd doesn't answer. The last known nodes stay.
func (r *Registry) fail(err error) {
	err = fmt.Errorf("etcd (%s): %w", strings.Join(r.opts.Endpoints, ", "), err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if text(err) != text(r.failure) {
		notify(r.changed)
	}
	r.failure = err
}

// failFirst is fail for the first session: later ones have a reason already, or the
// last known nodes.
func (r *Registry) failFirst(err error) {
	r.mu.Lock()
	first := r.failure == nil && r.shown == nil
	r.mu.Unlock()
	if first {
		r.fail(err)
	}
}

// show makes a session's set the one that Nodes returns, together with the problem.
// If etcd has no configuration, show keeps the earlier set: somebody may have
// replaced the cluster by an empty one.
func (r *Registry) show(s *session, problem error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text(problem) != text(r.problem) || r.failure != nil {
		notify(r.changed)
	}
	r.problem, r.failure = problem, nil
	if r.process.config == nil || s.configRevision == 0 {
		return
	}
	if r.shown != s.set || !slices.Equal(r.settings, r.process.config.settings) {
		notify(r.changed)
	}
	r.shown, r.settings = s.set, r.process.config.settings
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
	default: // the reader has not received the last value yet
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
