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
	// Kubeconfig is the path of the file that says how to reach the API server. An
	// empty path stands for the service account that Kubernetes gives to a pod.
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

// timing holds timeouts and waits.
type timing struct {
	// silence is how long the API server may send nothing in the middle of an
	// answer. It is longer than the Retry-After of a server under load, because
	// client-go waits for that time within the request.
	silence time.Duration
	// A failed watch is repeated after first. The wait doubles with every further
	// failure, up to last. A random part of up to the same length is added, because
	// all hosts of a cluster lose the API server at the same moment.
	first, last time.Duration
	report      pauses
}

func defaultTiming() timing {
	return timing{silence: time.Minute, first: 500 * time.Millisecond, last: 15 * time.Second, report: defaultPauses()}
}

// New begins to watch the nodes of a cluster. It returns at once, whether the API
// server answers or not. It fails only if the configuration is missing or broken.
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

// start starts the goroutines that Close ends.
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

// Nodes returns the nodes that can be part of one network. The error beside them
// names each other node, the mistake and the remedy. While the API server does not
// answer, the nodes stay the same, without an error. Before its first answer the
// error wraps registry.ErrNotReady; it names the server and says why it does not
// answer.
func (r *Registry) Nodes() ([]registry.Node, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listed {
		return r.set.Nodes()
	}
	if err := r.contact.trouble(); err != nil {
		return nil, fmt.Errorf("%w: %w", registry.ErrNotReady, err)
	}
	return nil, fmt.Errorf("%w: %w for the API server %s", registry.ErrNotReady, registry.ErrAsked, r.client.host)
}

// Changed gets a value when the nodes or the error changed.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// ReportNetwork takes the state of this host's pod network. It returns at once. A
// goroutine sets the condition NetworkUnavailable of this host's Node, and sets it again
// whenever somebody else changes it. Before the first call it leaves the condition
// alone. What is wrong with this host's Node belongs to the report, too.
func (r *Registry) ReportNetwork(report registry.Report) {
	report.Trouble = errors.Join(report.Trouble, r.ownProblem())
	r.reporter.setWant(conditionOf(report))
}

func (r *Registry) ownProblem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, p := range r.set.Problems() {
		if p.Node == r.own {
			errs = append(errs, p.Err)
		}
	}
	return errors.Join(errs...)
}

// LogsOutages makes the registry a registry.OutageLogger, see contact.
func (r *Registry) LogsOutages() {}

// Close ends all connections and returns when all goroutines have ended. Nodes
// keeps returning its last result.
func (r *Registry) Close() error {
	r.stop()
	return nil
}

func (r *Registry) signal() {
	select {
	case r.changed <- struct{}{}:
	default: // the reader has not received the last value yet
	}
}

// failed records that a list or watch failed.
func (r *Registry) failed(err error) {
	changed := r.contact.failed(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if changed && !r.listed { // until the first list, Nodes returns this error
		r.signal()
	}
}

// listWatch is the reflector's source of nodes. Since Kubernetes 1.32 a server can
// send all nodes at the beginning of a watch. With older servers the reflector
// lists first.
type listWatch struct{ *Registry }

// pageSize is how many nodes a list request returns at most. Thousands of nodes of
// 10 to 40 kB each should never be in memory at once.
const pageSize = 500

// ListWithContext reads a page of the nodes. Servers split a list into pages only
// if the request asks for the newest version, which the empty version means.
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

// WatchWithContext begins a watch. Only an accepted watch ends an outage: a server
// may answer lists and refuse watches.
//
// WatchWithContext repeats a failed request itself. If it returned the error, the
// reflector would list again, and thousands of hosts would read all nodes just when
// the API server is back, although they could resume their watches.
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
		if isOutdated(err) || !sleep(ctx, pause.Step()) {
			return nil, err
		}
	}
}

// isOutdated reports whether the server refused the resource version from which
// the watch should resume. Answers about the user's rights or the server's load
// say nothing about the version.
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

// List is required by the reflector's constructor. The reflector calls only
// ListWithContext and WatchWithContext.
func (l listWatch) List(options metav1.ListOptions) (runtime.Object, error) {
	return l.ListWithContext(context.Background(), options)
}

// Watch is required by the reflector's constructor, like List.
func (l listWatch) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return l.WatchWithContext(context.Background(), options)
}

// store receives the nodes from the reflector.
type store struct{ *Registry }

// Add adds a node.
func (s store) Add(object any) error { return s.Update(object) }

// Update adds or replaces a node.
func (s store) Update(object any) error {
	n, err := asNode(object)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set.Put(entryOf(n, s.own, s.set.Current(n.Name))) {
		s.signal()
	}
	if n.Name == s.own {
		s.reporter.setHave(&n.network)
	}
	return nil
}

// Delete removes a node.
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
		s.reporter.setHave(nil)
	}
	return nil
}

// Replace makes the objects of a full list the only nodes.
func (s store) Replace(objects []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make([]registry.Entry, len(objects))
	var network *condition
	for i, object := range objects {
		n, err := asNode(object)
		if err != nil {
			return err
		}
		entries[i] = entryOf(n, s.own, s.set.Current(n.Name))
		if n.Name == s.own {
			network = &n.network
		}
	}
	if s.set.Replace(entries) || !s.listed {
		s.signal()
	}
	s.listed = true
	s.reporter.setHave(network)
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
