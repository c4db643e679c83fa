package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// Options say which cluster, and which of its nodes this host is.
type Options struct {
	// NodeName is the name of this host's Node.
	NodeName string
	// Kubeconfig is the path of the file that says how to reach the API server.
	// Empty, it is the service account that Kubernetes gives to a pod.
	Kubeconfig string
	Log        *slog.Logger
}

// Registry is the set of a cluster's nodes, kept up to date by a watch.
type Registry struct {
	own      string
	client   *client
	contact  *contact
	reporter *reporter
	timing   timing
	changed  chan struct{}
	stop     func()

	mu     sync.Mutex
	set    *registry.Set
	listed bool // the first full list has been read
}

var _ registry.Registry = (*Registry)(nil)

// timing is how long to wait for what.
type timing struct {
	// silence is how long the API server may say nothing in the middle of an
	// answer. It is longer than what a server under load asks clients to stay
	// away, which is within that time.
	silence time.Duration
	// A watch that fails is tried again after first, then twice as long every
	// time up to last, each with up to as much again by chance: all hosts of a
	// cluster lose the API server at the same moment.
	first, last time.Duration
	report      pauses
}

func defaultTiming() timing {
	return timing{silence: time.Minute, first: 500 * time.Millisecond, last: 15 * time.Second, report: defaultPauses()}
}

// New begins to follow the nodes of a cluster. It returns at once, whether the
// API server answers or not; only a missing or broken configuration is an
// error.
func New(o Options) (*Registry, error) { return open(o, defaultTiming()) }

func open(o Options, t timing) (*Registry, error) {
	config, err := loadConfig(o.Kubeconfig)
	if err != nil {
		return nil, err
	}
	api, err := newClient(config, t.silence)
	if err != nil {
		return nil, err
	}
	r := &Registry{
		own: o.NodeName, client: api, set: registry.NewSet(),
		contact: &contact{host: api.host, log: o.Log},
		changed: make(chan struct{}, 1), timing: t,
	}
	r.reporter = &reporter{
		pauses: t.report, log: o.Log, wake: make(chan struct{}, 1),
		patch: func(ctx context.Context, patch []byte) (condition, error) {
			now, err := api.patchStatus(ctx, o.NodeName, patch)
			if err != nil {
				return condition{}, fmt.Errorf("patch the status of node %q: %w", o.NodeName, err)
			}
			return now, nil
		},
	}
	r.start(o.Log)
	return r, nil
}

// start runs what Close ends.
func (r *Registry) start(log *slog.Logger) {
	ctx, cancel := context.WithCancel(context.Background())
	ctx = logr.NewContext(ctx, logr.FromSlogHandler(quiet{log.Handler()}))
	reflector := cache.NewReflectorWithOptions(listWatch{r}, &node{}, store{r}, cache.ReflectorOptions{Name: "nodes", TypeDescription: "nodes"})
	reflector.WatchListPageSize = pageSize
	var running sync.WaitGroup
	running.Go(func() { reflector.RunWithContext(ctx) })
	running.Go(func() { r.reporter.run(ctx) })
	r.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		r.client.close()
	})
}

// Nodes returns the nodes that can be part of one network, and beside them
// what is wrong with the others: each is named, with what to do about it. While
// the API server is away the set stays as it was, without an error; before its
// first answer the error is registry.ErrNotReady and says which server it is
// and why it does not answer.
func (r *Registry) Nodes() ([]registry.Node, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listed {
		return r.set.Nodes()
	}
	if err := r.contact.trouble(); err != nil {
		return nil, fmt.Errorf("%w: %w", registry.ErrNotReady, err)
	}
	return nil, fmt.Errorf("%w: waiting for the API server %s", registry.ErrNotReady, r.client.host)
}

// Changed gets a value when the nodes or the error became different ones.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// ReportNetwork says whether this host's pod network is up: down is why it is
// not, nil if it is. It returns at once; the node's condition
// NetworkUnavailable follows as soon as the API server takes it. The condition
// is not touched before the first call, and then set back whenever somebody
// else changes it.
func (r *Registry) ReportNetwork(down error) { r.reporter.ask(conditionOf(down)) }

// Close ends all connections and returns when nothing runs any more. Nodes
// goes on answering what it did before.
func (r *Registry) Close() error {
	r.stop()
	return nil
}

func (r *Registry) signal() {
	select {
	case r.changed <- struct{}{}:
	default: // the reader has not come for the last one yet
	}
}

// failed notes that a list or watch failed.
func (r *Registry) failed(err error) {
	news := r.contact.failed(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if news && !r.listed { // it is what Nodes says
		r.signal()
	}
}

// listWatch is where the reflector gets nodes from. The reflector lists only
// where the server does not send all nodes at the beginning of a watch, as
// servers before Kubernetes 1.32 do not.
type listWatch struct{ *Registry }

// pageSize is how many nodes to read at once, so that the list of thousands of
// nodes, with 10 to 40 kB each, is never in memory as a whole.
const pageSize = 500

// ListWithContext reads a page of the nodes. Servers give pages only of a list
// that is up to date, which the empty version asks for.
func (l listWatch) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	if options.ResourceVersion == "0" {
		options.ResourceVersion = ""
	}
	list, err := l.client.list(ctx, options)
	if err != nil {
		l.failed(err)
		return nil, err
	}
	return list, nil
}

// WatchWithContext follows changes. Only a watch shows that all is well: a list
// may come from a server that refuses watches.
//
// It does not give up, for the reflector would list then: thousands of hosts
// would ask for all nodes just when the API server is back, though all of them
// may go on where they were.
func (l listWatch) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	// 30 doublings are more than enough to get to Cap.
	pause := wait.Backoff{Duration: l.timing.first, Cap: l.timing.last, Factor: 2, Jitter: 1, Steps: 30}
	for {
		w, err := l.client.watch(ctx, options, l.failed)
		if err == nil {
			l.contact.succeeded()
			return w, nil
		}
		l.failed(err)
		if isOutdated(err) || !stay(ctx, pause.Step()) {
			return nil, err
		}
	}
}

// isOutdated reports whether the server answered and refused the version to go
// on from. What says something about the server or the user alone does not.
func isOutdated(err error) bool {
	var answer apierrors.APIStatus
	if !errors.As(err, &answer) {
		return false
	}
	switch code := answer.Status().Code; code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	default:
		return code >= 400 && code < 500
	}
}

// List and Watch are what the reflector's constructor asks for; it calls the
// two above.
func (l listWatch) List(options metav1.ListOptions) (runtime.Object, error) {
	return l.ListWithContext(context.Background(), options)
}

// Watch is as List.
func (l listWatch) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return l.WatchWithContext(context.Background(), options)
}

// store is where the reflector puts nodes.
type store struct{ *Registry }

// Add takes over a node.
func (s store) Add(object any) error { return s.Update(object) }

// Update takes over a node.
func (s store) Update(object any) error {
	n, err := asNode(object)
	if err != nil {
		return err
	}
	e := entryOf(n, s.own)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set.Put(e) {
		s.signal()
	}
	if n.Name == s.own {
		s.reporter.see(&n.network)
	}
	return nil
}

// Delete forgets a node.
func (s store) Delete(object any) error {
	n, err := asNode(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set.Remove(n.Name) {
		s.signal()
	}
	if n.Name == s.own {
		s.reporter.see(nil)
	}
	return nil
}

// Replace takes over a full list.
func (s store) Replace(objects []any, _ string) error {
	entries := make([]registry.Entry, len(objects))
	var network *condition
	for i, object := range objects {
		n, err := asNode(object)
		if err != nil {
			return err
		}
		entries[i] = entryOf(n, s.own)
		if n.Name == s.own {
			network = &n.network
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set.Replace(entries) || !s.listed {
		s.signal()
	}
	s.listed = true
	s.reporter.see(network)
	return nil
}

// Resync does nothing: there is no second copy to compare with.
func (s store) Resync() error { return nil }

func asNode(object any) (*node, error) {
	n, ok := object.(*node)
	if !ok {
		return nil, fmt.Errorf("expected a node, got a %T", object)
	}
	return n, nil
}
