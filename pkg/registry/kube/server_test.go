package kube

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// server implements the part of the API that nodes need: list, watch, and patches
// of one condition. test/e2e tests permissions and etcd's behaviour with a real API
// server.
type server struct {
	t       *testing.T
	address string // stays over restarts

	mu      sync.Mutex
	http    *httptest.Server // nil while it is down
	version int
	nodes   map[string]*corev1.Node
	history []event
	wake    chan struct{} // closed and replaced with each change
	// fault may answer a request instead; it says whether it did.
	fault func(http.ResponseWriter, *http.Request) bool
	// old: the server does not send the nodes that exist when a watch begins.
	old     bool
	lists   int // how often somebody read all nodes
	patches []corev1.NodeCondition
}

type event struct {
	version int
	kind    watch.EventType
	node    *corev1.Node
}

func newServer(t *testing.T) *server {
	s := &server{t: t, nodes: map[string]*corev1.Node{}, wake: make(chan struct{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.serve(l)
	t.Cleanup(s.down)
	return s
}

func (s *server) serve(l net.Listener) {
	web := httptest.NewUnstartedServer(http.HandlerFunc(s.handle))
	web.Listener.Close()
	web.Listener = l
	web.EnableHTTP2 = true
	web.Config.ErrorLog = nil
	web.StartTLS()
	s.mu.Lock()
	s.http = web
	s.mu.Unlock()
}

// down ends the server and all of its connections. It refuses watches that begin
// meanwhile. If it accepted one and cut it off, the reflector would see a short
// watch without events, after which it lists again.
func (s *server) down() {
	s.mu.Lock()
	web := s.http
	s.http = nil
	s.mu.Unlock()
	if web == nil {
		return
	}
	web.CloseClientConnections()
	web.Listener.Close()
	_ = web.Config.Close()
	web.Close()
}

// up starts it again where it was.
func (s *server) up() {
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.serve(l)
}

// kubeconfig trusts any certificate, because client-go checks certificates.
func (s *server) kubeconfig() string {
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://" + s.address, InsecureSkipTLSVerify: true}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: "secret"}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// put makes or changes a node.
func (s *server) put(n *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putLocked(n)
}

func (s *server) putLocked(n *corev1.Node) {
	kind := watch.Modified
	if s.nodes[n.Name] == nil {
		kind = watch.Added
	}
	n = n.DeepCopy()
	s.record(kind, n)
	s.nodes[n.Name] = n
}

func (s *server) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record(watch.Deleted, s.nodes[name].DeepCopy())
	delete(s.nodes, name)
}

func (s *server) record(kind watch.EventType, n *corev1.Node) {
	s.version++
	n.ResourceVersion = strconv.Itoa(s.version)
	s.history = append(s.history, event{s.version, kind, n})
	close(s.wake)
	s.wake = make(chan struct{})
}

// inject passes each request to f first. A nil f ends this.
func (s *server) inject(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *server) handle(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	fault, isDown := s.fault, s.http == nil
	s.mu.Unlock()
	switch {
	case isDown: // came in while the connections were being ended
		status(s.t, w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
	case fault != nil && fault(w, r):
	case !strings.HasPrefix(r.Header.Get("Accept"), runtime.ContentTypeProtobuf) || r.Header.Get("Authorization") != "Bearer secret":
		http.Error(w, fmt.Sprintf("unexpected headers %v", r.Header), http.StatusBadRequest)
	case r.Method == http.MethodPatch:
		s.patch(w, r)
	case r.URL.Path != "/api/v1/nodes":
		http.NotFound(w, r)
	case r.URL.Query().Get("watch") == "true":
		s.watch(w, r)
	default:
		s.list(w)
	}
}

func (s *server) list(w http.ResponseWriter) {
	s.mu.Lock()
	s.lists++
	list := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)}}
	for _, n := range s.nodes {
		list.Items = append(list.Items, *n)
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	_, _ = w.Write(asServer(s.t, list))
}

func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	flush := w.(http.Flusher).Flush
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf+";stream=watch")
	seen, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	switch {
	case listsAll(r) && s.isOld():
		status(s.t, w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
		return
	case listsAll(r):
		seen = s.sendAll(w)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	flush()
	for {
		s.mu.Lock()
		news, wake := slices.Clone(s.history), s.wake
		s.mu.Unlock()
		for _, e := range news {
			if e.version > seen {
				_, _ = w.Write(frameOf(s.t, e.kind, e.node))
				seen = e.version
			}
		}
		flush()
		select {
		case <-wake:
		case <-r.Context().Done():
			return
		}
	}
}

// listsAll reports whether a request reads all nodes.
func listsAll(r *http.Request) bool {
	return r.URL.Query().Get("watch") != "true" || r.URL.Query().Get("sendInitialEvents") == "true"
}

// sendAll begins a watch with the nodes that exist, and returns their version.
func (s *server) sendAll(w io.Writer) (version int) {
	s.mu.Lock()
	s.lists++
	version = s.version
	var begin []byte
	for _, n := range s.nodes {
		begin = append(begin, frameOf(s.t, watch.Added, n)...)
	}
	s.mu.Unlock()
	_, _ = w.Write(append(begin, endOfList(s.t, version)...))
	return version
}

// endOfList is the bookmark behind the nodes that exist.
func endOfList(t *testing.T, version int) []byte {
	return frameOf(t, watch.Bookmark, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		ResourceVersion: strconv.Itoa(version), Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"},
	}})
}

// setOld makes the server one of before Kubernetes 1.32.
func (s *server) setOld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old = true
}

func (s *server) isOld() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.old
}

// patch does what a strategic merge patch of one condition does.
func (s *server) patch(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var p struct {
		Status struct{ Conditions []corev1.NodeCondition }
	}
	if err := json.Unmarshal(body, &p); err != nil || len(p.Status.Conditions) != 1 || r.Header.Get("Content-Type") != "application/strategic-merge-patch+json" {
		http.Error(w, fmt.Sprintf("%s: %v", body, err), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var n *corev1.Node
	for name, have := range s.nodes {
		if r.URL.Path == "/api/v1/nodes/"+name+"/status" {
			n = have.DeepCopy()
		}
	}
	if n == nil {
		http.NotFound(w, r)
		return
	}
	c := p.Status.Conditions[0]
	s.patches = append(s.patches, c)
	setCondition(n, c)
	s.putLocked(n)
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	_, _ = w.Write(asServer(s.t, n))
}

func setCondition(n *corev1.Node, c corev1.NodeCondition) {
	n.Status.Conditions = slices.DeleteFunc(n.Status.Conditions, func(old corev1.NodeCondition) bool { return old.Type == c.Type })
	n.Status.Conditions = append(n.Status.Conditions, c)
}

func (s *server) patched() []corev1.NodeCondition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.patches)
}

// drop ends all connections.
func (s *server) drop() {
	s.mu.Lock()
	web := s.http
	s.mu.Unlock()
	web.CloseClientConnections()
}

func (s *server) listed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists
}

// status answers with an error as the API server does.
func status(t *testing.T, w http.ResponseWriter, code int32, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	w.WriteHeader(int(code))
	_, _ = w.Write(asServer(t, &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: fmt.Sprintf("injected %d", code)}))
}
