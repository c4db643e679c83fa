package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	closed   atomic.Bool
	host     string
	patience time.Duration
}

// loadConfig reads how to reach the API server. With an empty path it uses the
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
		return nil, fmt.Errorf("this is not a pod with a service account, so registry.kubeconfig has to name a kubeconfig: %w", err)
	}
	return config, nil
}

// keepAlive is the interval of TCP keep-alives. They detect a dead connection
// behind a proxy that speaks HTTP/1.1, which has no pings as HTTP/2 has.
const keepAlive = 30 * time.Second

// newClient returns a client that has not connected yet.
func newClient(config *rest.Config, patience time.Duration) (*client, error) {
	config = rest.CopyConfig(config)
	config.APIPath = "/api"
	config.GroupVersion = &schema.GroupVersion{Version: "v1"}
	config.NegotiatedSerializer = codec()
	config.AcceptContentTypes = runtime.ContentTypeProtobuf
	config.UserAgent = "overlayd"
	// Decompressing a list takes more CPU time than all other work on the list.
	config.DisableCompression = true
	// No rate limit: the reflector and the reporter limit themselves.
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	c := &client{
		dialer: connrotation.NewDialer((&net.Dialer{Timeout: patience, KeepAlive: keepAlive}).DialContext),
		host:   config.Host, patience: patience,
	}
	config.Dial = c.dial
	api, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("set up the connection to the API server %s: %w", config.Host, err)
	}
	c.rest = api
	return c, nil
}

// dial closes a connection that was established while the client was closing.
// net/http keeps dialling for a request that was cancelled, so such a connection
// would stay open.
func (c *client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dialer.DialContext(ctx, network, address)
	if err == nil && c.closed.Load() {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	return conn, err
}

// codec decodes the kinds of objects that the API server sends to this package.
func codec() runtime.NegotiatedSerializer {
	v1 := schema.GroupVersion{Version: "v1"}
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(v1, &corev1.Node{}, &corev1.NodeList{})
	metav1.AddToGroupVersion(scheme, v1)
	return serializer.NewCodecFactory(scheme).WithoutConversion()
}

// close ends all connections.
func (c *client) close() {
	c.closed.Store(true)
	c.dialer.CloseAll()
}

// nodes builds a request for nodes with these options.
func (c *client) nodes(options metav1.ListOptions) *rest.Request {
	return c.rest.Get().Resource("nodes").VersionedParams(&options, metav1.ParameterCodec)
}

// list reads all nodes, or one page of them if the options have a limit.
func (c *client) list(ctx context.Context, options metav1.ListOptions) (*nodeList, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience, c.silent())
	defer cancel()
	result := c.nodes(options).Do(ctx)
	var full corev1.NodeList
	err := result.Into(&full)
	var kind string
	if result.ContentType(&kind); err != nil && result.Error() == nil && kind != runtime.ContentTypeProtobuf {
		return nil, runtime.NegotiateError{ContentType: kind}
	}
	if err != nil {
		return nil, reason(ctx, err)
	}
	list := &nodeList{ListMeta: full.ListMeta}
	for i := range full.Items {
		list.Items = append(list.Items, nodeOf(&full.Items[i]))
	}
	return list, nil
}

// reason returns errSilent with the time if the server's silence made the
// request fail, else err.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		return cause
	}
	return err
}

// watch starts a watch and returns when the server has accepted the request. If
// the options ask for the existing nodes, the watch ends with errSilent when the
// server stops sending before it has sent them all. If a watch ends with an
// error after the server accepted it, watch passes the error to failed. The HTTP/2
// pings of client-go detect a server that dies during a watch.
func (c *client) watch(ctx context.Context, options metav1.ListOptions, failed func(error)) (watch.Interface, error) {
	options.Watch = true
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(c.patience, func() { cancel(c.silent()) })
	end := func() { silence.Stop(); cancel(nil) }
	w, err := c.nodes(options).Watch(ctx)
	if err != nil {
		defer end()
		return nil, reason(ctx, err)
	}
	listing := options.SendInitialEvents != nil && *options.SendInitialEvents
	if !listing {
		silence.Stop()
	}
	return stream{end: end, Interface: watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
		switch object := e.Object.(type) {
		case *corev1.Node:
			n := nodeOf(object)
			if e.Type == watch.Bookmark {
				n.Annotations = object.Annotations
				listing = listing && n.Annotations[metav1.InitialEventsAnnotationKey] != "true"
			}
			e.Object = n
		case *metav1.Status:
			if err := reason(ctx, apierrors.FromObject(object)); ctx.Err() == nil || errors.Is(err, errSilent) {
				failed(err)
			}
		}
		if silence.Stop() && listing {
			silence.Reset(c.patience)
		}
		return e, true
	})}, nil
}

// stream is a watch whose Stop also stops its timer and its context.
type stream struct {
	watch.Interface
	end func()
}

// Stop ends the watch. It drains the events, because the goroutine of
// watch.Filter ends only after its last event was received.
func (s stream) Stop() {
	s.Interface.Stop()
	s.end()
	for range s.ResultChan() {
		continue
	}
}

// errSilent says that a request was cancelled because the server sent nothing.
var errSilent = errors.New("the API server is silent")

func (c *client) silent() error { return fmt.Errorf("%w for %s", errSilent, c.patience) }

// patchStatus applies a strategic merge patch to the status of a node. It returns
// the condition that the node has after the patch.
func (c *client) patchStatus(ctx context.Context, name string, patch []byte) (condition, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	var n corev1.Node
	err := c.rest.Patch(types.StrategicMergePatchType).Resource("nodes").Name(name).SubResource("status").
		Param("fieldManager", "overlayd").Body(patch).Do(ctx).Into(&n)
	return nodeOf(&n).network, err
}
