package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion/queryparams"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"
)

// client makes the three requests of this package: list and watch nodes, patch
// a node's status. Authentication, TLS, Retry-After and rotated credentials are
// client-go's part.
type client struct {
	rest     *rest.RESTClient
	dialer   *connrotation.Dialer // knows all connections
	host     string
	patience time.Duration
}

// loadConfig reads how to reach the API server. With an empty path it is the
// service account that Kubernetes gives to a pod.
func loadConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read the kubeconfig %s: %w", kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("no kubeconfig is given, and this is not a pod with a service account: name a kubeconfig: %w", err)
	}
	return config, nil
}

// keepAlive finds a dead connection where no HTTP/2 pings do, behind a proxy
// that speaks HTTP/1.1.
const keepAlive = 30 * time.Second

// newClient connects to nothing yet.
func newClient(config *rest.Config, patience time.Duration) (*client, error) {
	config = rest.CopyConfig(config)
	config.APIPath = "/api"
	config.GroupVersion = &schema.GroupVersion{Version: "v1"}
	config.NegotiatedSerializer = statusCodec()
	config.AcceptContentTypes = runtime.ContentTypeProtobuf
	config.UserAgent = "overlayd"
	// Unpacking a list costs more than all that is done with it.
	config.DisableCompression = true
	// The reflector and the reporter have their own pauses.
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: patience, KeepAlive: keepAlive}).DialContext)
	config.Dial = dialer.DialContext
	api, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("set up the connection to the API server %s: %w", config.Host, err)
	}
	return &client{rest: api, dialer: dialer, host: config.Host, patience: patience}, nil
}

// statusCodec knows the one kind that client-go has to decode itself: the
// Status of an answer that is an error.
func statusCodec() runtime.NegotiatedSerializer {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return serializer.NewCodecFactory(scheme).WithoutConversion()
}

// close ends all connections.
func (c *client) close() { c.dialer.CloseAll() }

// nodes begins a request for nodes with these options.
func (c *client) nodes(options metav1.ListOptions) (*rest.Request, error) {
	values, err := queryparams.Convert(&options)
	if err != nil {
		return nil, fmt.Errorf("encode the options of a request: %w", err)
	}
	request := c.rest.Get().Resource("nodes")
	for key, all := range values {
		for _, value := range all {
			request.Param(key, value)
		}
	}
	return request, nil
}

// list reads all nodes, or a page of them where the server gives pages.
func (c *client) list(ctx context.Context, options metav1.ListOptions) (*nodeList, error) {
	request, err := c.nodes(options)
	if err != nil {
		return nil, err
	}
	ctx, guard := watchSilence(ctx, c.patience)
	defer guard.end()
	body, err := request.Stream(ctx)
	if err != nil {
		return nil, guard.reason(err)
	}
	defer body.Close()
	list, err := readList(guard.reader(body))
	return list, guard.reason(err)
}

// watch waits for the server to accept, no longer; broken is called where what
// comes then can't be understood. Servers that die while the
// watch runs are found by client-go's pings of the connection.
func (c *client) watch(ctx context.Context, options metav1.ListOptions, broken func(error)) (watch.Interface, error) {
	options.Watch = true
	request, err := c.nodes(options)
	if err != nil {
		return nil, err
	}
	ctx, guard := watchSilence(ctx, c.patience)
	body, err := request.Stream(ctx)
	if err != nil {
		guard.end()
		return nil, guard.reason(err)
	}
	guard.rest()
	stream := &events{reader: newReader(body), broken: broken, stop: func() { _ = body.Close(); guard.end() }}
	reporter := apierrors.NewClientErrorReporter(http.StatusInternalServerError, http.MethodGet, "watch of nodes")
	return watch.NewStreamWatcherWithLogger(logr.FromContextOrDiscard(ctx), stream, reporter), nil
}

// patchStatus applies a strategic merge patch to the status of a node, and
// returns the node as it is then.
func (c *client) patchStatus(ctx context.Context, name string, patch []byte) (*node, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	answer, err := c.rest.Patch(types.StrategicMergePatchType).Resource("nodes").Name(name).SubResource("status").
		Param("fieldManager", "overlayd").Body(patch).Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	return decodeNode(answer)
}

// errSilent is why a request was given up.
var errSilent = errors.New("the API server is silent")

// guard ends a request whose server says nothing for a while. A timeout for the
// whole of it would not do: a slow network may take minutes for a list, and a
// watch has no end.
type guard struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

func watchSilence(parent context.Context, limit time.Duration) (context.Context, *guard) {
	ctx, cancel := context.WithCancelCause(parent)
	silence := fmt.Errorf("%w for %s", errSilent, limit)
	return ctx, &guard{ctx: ctx, cancel: cancel, limit: limit, timer: time.AfterFunc(limit, func() { cancel(silence) })}
}

// rest stops the clock.
func (g *guard) rest() { g.timer.Stop() }

func (g *guard) end() {
	g.timer.Stop()
	g.cancel(nil)
}

// reason is err, or silence where that is behind it.
func (g *guard) reason(err error) error {
	if cause := context.Cause(g.ctx); err != nil && errors.Is(cause, errSilent) {
		return cause
	}
	return err
}

// reader starts the clock again whenever something arrives.
func (g *guard) reader(from io.Reader) io.Reader { return &guarded{from, g} }

type guarded struct {
	from  io.Reader
	guard *guard
}

func (r *guarded) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if n > 0 {
		r.guard.timer.Reset(r.guard.limit)
	}
	return n, err
}
