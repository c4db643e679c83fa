package hosts

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// apiServer stands in for Kubernetes' API server. Its Nodes never change but for
// one condition. test/e2e has the real server.
type apiServer struct {
	t       *testing.T
	ns      *sandbox.Netns
	address string
	nodes   []entry
	server  *http.Server // nil while it is down
	serving sync.WaitGroup

	mu sync.Mutex
	// unavailable is each node's condition NetworkUnavailable.
	unavailable map[string]condition
}

type condition struct{ Type, Status, Reason, Message string }

// newAPIServer makes a server that does not listen yet.
func newAPIServer(t *testing.T, ns *sandbox.Netns, address string, nodes []entry) *apiServer {
	s := &apiServer{t: t, ns: ns, address: address, nodes: nodes, unavailable: map[string]condition{}}
	t.Cleanup(s.stop)
	return s
}

func (s *apiServer) start(context.Context) {
	s.t.Helper()
	var l net.Listener
	err := s.ns.Do(func() (err error) {
		l, err = net.Listen("tcp", s.address)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	// Watches end together with the server.
	ctx, end := context.WithCancel(context.Background())
	server := &http.Server{Handler: s, BaseContext: func(net.Listener) context.Context { return ctx }}
	server.RegisterOnShutdown(end)
	s.server = server
	s.serving.Go(func() { _ = server.Serve(l) })
}

func (s *apiServer) stop() {
	if s.server == nil {
		return
	}
	_ = s.server.Close()
	s.serving.Wait()
	s.server = nil
}

// kubeconfig leads to the server.
func (s *apiServer) kubeconfig() string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}],
  users: [{name: u, user: {token: secret}}], clusters: [{name: c, cluster: {server: "http://%s"}}]}`, s.address)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// ServeHTTP knows the three requests that overlayd makes.
func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
	switch {
	case r.Method == http.MethodPatch:
		s.patch(w, r)
	case r.URL.Path != "/api/v1/nodes":
		http.NotFound(w, r)
	case r.URL.Query().Get("watch") == "true":
		if r.URL.Query().Get("sendInitialEvents") == "true" {
			_, _ = w.Write(s.events())
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done() // nothing ever changes
	default:
		http.Error(w, "overlayd gets the nodes from a watch", http.StatusMethodNotAllowed)
	}
}

// patch takes over the condition and answers with the node.
func (s *apiServer) patch(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var p struct {
		Status struct {
			Conditions []condition
		}
	}
	if err != nil || json.Unmarshal(body, &p) != nil || len(p.Status.Conditions) != 1 {
		http.Error(w, string(body), http.StatusBadRequest)
		return
	}
	name := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/api/v1/nodes/"), "/status")
	s.mu.Lock()
	s.unavailable[name] = p.Status.Conditions[0]
	s.mu.Unlock()
	for _, n := range s.nodes {
		if n.name == name {
			_, _ = w.Write(object("Node", s.node(n)))
			return
		}
	}
	http.NotFound(w, r)
}

func (s *apiServer) condition(node string) condition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unavailable[node]
}

// The numbers are those of the API's protobuf, in k8s.io/api/core/v1.

// object is in the envelope that every object of Kubernetes has.
func object(kind string, raw []byte) []byte {
	types := message(nil, 1, []byte("v1"))
	types = message(types, 2, []byte(kind))
	return message(message([]byte("k8s\x00"), 1, types), 2, raw)
}

func message(to []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), value)
}

// events are how a watch begins: with all nodes, and a bookmark behind them.
func (s *apiServer) events() []byte {
	var all []byte
	for _, n := range s.nodes {
		all = append(all, event("ADDED", s.node(n))...)
	}
	annotation := message(message(nil, 1, []byte("k8s.io/initial-events-end")), 2, []byte("true"))
	metadata := message(message(nil, 6, []byte("7")), 12, annotation)
	return append(all, event("BOOKMARK", message(nil, 1, metadata))...)
}

// event has its length before it.
func event(kind string, node []byte) []byte {
	e := message(message(nil, 1, []byte(kind)), 2, message(nil, 1, object("Node", node)))
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(e))), e...)
}

func (s *apiServer) node(e entry) []byte {
	metadata := message(message(nil, 1, []byte(e.name)), 6, []byte("7")) // name, resourceVersion
	var spec, status []byte
	for _, p := range e.subnets {
		spec = message(spec, 7, []byte(p.String())) // podCIDRs
	}
	for _, a := range e.addresses {
		status = message(status, 5, message(message(nil, 1, []byte("InternalIP")), 2, []byte(a.String())))
	}
	if c := s.condition(e.name); c.Type != "" {
		has := message(message(nil, 1, []byte(c.Type)), 2, []byte(c.Status))
		status = message(status, 4, message(message(has, 5, []byte(c.Reason)), 6, []byte(c.Message)))
	}
	return message(message(message(nil, 1, metadata), 2, spec), 3, status)
}

// remote is a registry that runs elsewhere.
type remote interface {
	start(context.Context)
	stop()
}

// remoteEtcd is etcd with a network in it.
type remoteEtcd struct {
	*etcdServer
	networks []netip.Prefix
}

func (r remoteEtcd) start(ctx context.Context) {
	r.etcdServer.start()
	r.put(ctx, "/overlay-cni/config", "networks: ["+quoted(r.networks)+"]\n")
}

// A host may be up before its registry. A new host says what it waits for. After
// a restart, a host admits pods as before.
func TestDaemonIsUpBeforeKubernetes(t *testing.T) {
	t.Parallel()
	dual(t, func(t *testing.T, m mode) {
		f := newIdleFleet(t, 2, m.set, withHealth)
		address := netip.AddrPortFrom(f.lab.Segments()[0].Addr(), 6443)
		s := newAPIServer(t, f.lab.Switch(), address.String(), entries(f.hosts...))
		config := s.kubeconfig()
		f.upBefore(s, func(*lab.Host) []string { return []string{"--registry-type", "kube", "--registry-kubeconfig", config} })
		f.conditions(withPatience(t), s)
	})
}

func TestDaemonIsUpBeforeEtcd(t *testing.T) {
	t.Parallel()
	dual(t, func(t *testing.T, m mode) {
		f := newIdleFleet(t, 2, m.set, withHealth)
		e := newEtcd(f)
		e.stop()
		f.upBefore(remoteEtcd{e, m.prefixes("10.99.0.0/16", "fd99::/48")}, func(h *lab.Host) []string {
			return []string{"--registry-type", "etcd", "--registry-etcd-endpoints", e.url, "--registry-etcd-host-id", h.Name}
		})
	})
}

func (f *fleet) upBefore(server remote, args func(*lab.Host) []string) {
	f.t.Helper()
	ctx := withPatience(f.t)
	const waits = "the registry has not given its first full list of nodes yet"
	a := f.hosts[0]
	for _, h := range f.hosts {
		f.launch(h, args(h)...)
	}
	for _, h := range f.hosts {
		f.eventuallyDown(ctx, h, waits, "connection refused")
		f.notPublished(h)
	}
	server.start(ctx)
	for _, h := range f.hosts {
		f.eventuallyReady(ctx, h)
		f.pods = append(f.pods, f.addPod(ctx, h, "pod"))
	}
	f.eventuallyTalk(ctx)
	published := f.published(a)
	ctx = withPatience(f.t) // etcd is tried again after some seconds
	server.stop()
	f.must(a.Daemon().Kill())
	f.launch(a, args(a)...)
	asBefore := func(ctx context.Context) error {
		return says(ctx, a, "/readyz", http.StatusOK, "network: degraded since ", "stays as an earlier overlayd set it up", waits)
	}
	f.must(probe.Eventually(ctx, asBefore))
	f.must(a.Daemon().Log.Wait(ctx, "waiting for the registry, keeping the published state"))
	late := f.addPod(ctx, a, "late")
	f.ping(ctx, late, f.pods[1])
	f.must(asBefore(ctx))
	// The other host was up while the registry had nodes, and still has them.
	f.alive(ctx, f.hosts[1])
	f.ping(ctx, f.pods[1], late)
	// What is published is worth nothing without its devices.
	f.must(onLink(tunnel, (*netlink.Handle).LinkSetDown)(a.Handle()))
	f.eventuallyDown(ctx, a, "overlay0 is missing or down", waits)
	ctx = withPatience(f.t)
	server.start(ctx)
	for _, h := range f.hosts {
		f.eventuallyReady(ctx, h)
	}
	f.eventuallyTalk(ctx)
	f.must(late.Delete(ctx))
	if now := f.published(a); fmt.Sprint(now) != fmt.Sprint(published) {
		f.t.Errorf("published %v, and before the restart %v", now, published)
	}
	const unfit = "level=ERROR msg=\"this host's network is down\" err=\"overlay0 is missing or down"
	log := a.Daemon().Log.String()
	if n := strings.Count(log, unfit); n != 1 {
		f.t.Errorf("that the tunnel is down is logged %d times:\n%s", n, log)
	}
	if log := strings.ReplaceAll(log, unfit, ""); strings.Count(log, "level=ERROR")+strings.Count(log, "level=WARN") > 1 {
		f.t.Errorf("that it waits is logged more than once:\n%s", log)
	}
}

func (f *fleet) eventuallyTalk(ctx context.Context) {
	f.t.Helper()
	for i := range f.pods {
		f.must(probe.Eventually(ctx, func(ctx context.Context) error { return ping(ctx, f.pods[i], f.pods[len(f.pods)-1-i]) }))
	}
}

// conditions waits for Kubernetes to know that the nodes' network is there.
func (f *fleet) conditions(ctx context.Context, s *apiServer) {
	f.t.Helper()
	for _, h := range f.hosts {
		f.must(probe.Eventually(ctx, func(context.Context) error {
			if c := s.condition(h.Name); c.Type != "NetworkUnavailable" || c.Status != "False" {
				return fmt.Errorf("the condition of %s is %+v", h.Name, c)
			}
			return nil
		}))
	}
}
