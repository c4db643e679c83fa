package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
)

// patient is longer than anything here takes on a machine that is busy.
const patient = 30 * time.Second

// quick is a registry that doesn't make tests wait. A server that is busy must not
// pass for a silent one, however.
func quick() timing {
	return timing{silence: time.Second, first: 5 * time.Millisecond, last: 50 * time.Millisecond, report: pauses{afterSuccess: 10 * time.Millisecond, first: 10 * time.Millisecond, last: 50 * time.Millisecond}}
}

// journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// following is a registry of the server's nodes, as node-00001, and its log.
func following(t *testing.T, s *server) (*Registry, *journal) {
	t.Helper()
	log := &journal{}
	r, err := open(Options{NodeName: "node-00001", Kubeconfig: s.kubeconfig(), Log: slog.New(slog.NewTextHandler(log, nil))}, quick())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, log
}

// await returns when names and error are as wanted, looking only when Changed
// says so.
func await(t *testing.T, r *Registry, wantNames, wantErr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	for {
		nodes, err := r.Nodes()
		if names(nodes) == wantNames && (err == nil) == (wantErr == "") && strings.Contains(text(err), wantErr) {
			return
		}
		select {
		case <-r.Changed():
		case <-ctx.Done():
			t.Fatalf("nodes %q, error %v; want nodes %q, error %q", names(nodes), err, wantNames, wantErr)
		}
	}
}

// eventually polls what gives no signal.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	end := time.Now().Add(patient)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !is() {
		if time.Now().After(end) {
			t.Fatalf("not in %s: %s", patient, what)
		}
		<-ticker.C
	}
}

func TestFollowsNodes(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(realistic(1))
	s.put(realistic(2))
	r, _ := following(t, s)
	await(t, r, "node-00001 node-00002", "")

	s.put(realistic(3))
	await(t, r, "node-00001 node-00002 node-00003", "")
	s.remove("node-00002")
	await(t, r, "node-00001 node-00003", "")

	bad := realistic(4)
	bad.Annotations[AddressAnnotation] = "eth0"
	s.put(bad)
	await(t, r, "node-00001 node-00003 node-00004", `node "node-00004": annotation overlay-cni.io/address is "eth0"`)
	// A mistake leaves the last good address.
	for _, step := range []struct{ value, err string }{
		{"203.0.113.4", ""},
		{"hello", `node "node-00004": annotation overlay-cni.io/address is "hello"`},
		{"127.0.0.1", `node "node-00004": address 127.0.0.1 is a loopback address`},
	} {
		bad.Annotations[AddressAnnotation], bad.Annotations[NATAnnotation] = step.value, "true"
		s.put(bad)
		await(t, r, "node-00001 node-00003 node-00004", step.err)
		if nodes, _ := r.Nodes(); nodes[2].Addresses[0].String() != "203.0.113.4" || !nodes[2].NAT {
			t.Errorf("%s: the node is %+v", step.value, nodes[2])
		}
	}
	delete(bad.Annotations, AddressAnnotation)
	s.put(bad)
	await(t, r, "node-00001 node-00003 node-00004", "")

	waiting := realistic(1)
	waiting.Spec = corev1.NodeSpec{}
	s.put(waiting)
	await(t, r, "node-00001 node-00003 node-00004", "waits for its pod subnet")
}

// Heartbeats of kubelets don't signal a change.
func TestHeartbeatsAreNoChange(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(realistic(1))
	s.put(realistic(2))
	r, _ := following(t, s)
	await(t, r, "node-00001 node-00002", "")
	for len(r.Changed()) > 0 {
		<-r.Changed()
	}
	for range 5 {
		n := realistic(2)
		n.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
		s.put(n)
	}
	// Events come in order: when this one is here, those before it were.
	s.put(realistic(3))
	<-r.Changed()
	if nodes, err := r.Nodes(); len(nodes) != 3 || err != nil {
		t.Errorf("a change was told of with nodes %q, error %v", names(nodes), err)
	}
}

// The server is away when the daemon starts.
func TestServerDownAtStart(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(realistic(1))
	s.down()
	r, log := following(t, s)
	if _, err := r.Nodes(); !errors.Is(err, registry.ErrNotReady) || !strings.Contains(err.Error(), s.address) {
		t.Errorf("at once: %v", err)
	}
	await(t, r, "", "the API server https://"+s.address+" has not sent the nodes since")
	if _, err := r.Nodes(); !errors.Is(err, registry.ErrNotReady) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("while it is down: %v", err)
	}
	s.up()
	await(t, r, "node-00001", "")
	eventually(t, "good news in the log", func() bool { return strings.Contains(log.String(), "watching nodes again") })
}

// While the server is down the nodes stay the same. When it is up again, Nodes has
// the changes of the meantime.
func TestServerAway(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(realistic(1))
	s.put(realistic(2))
	r, log := following(t, s)
	await(t, r, "node-00001 node-00002", "")
	s.down()
	eventually(t, "a warning", func() bool { return strings.Contains(log.String(), "level=WARN") })
	s.put(realistic(3))
	s.remove("node-00002")
	if nodes, err := r.Nodes(); len(nodes) != 2 || err != nil {
		t.Errorf("while it is away: %d nodes, %v", len(nodes), err)
	}
	s.up()
	await(t, r, "node-00001 node-00003", "")
	eventually(t, "good news in the log", func() bool { return strings.Contains(log.String(), "watching nodes again") })
	if lines := strings.Count(log.String(), "level=WARN"); lines != 1 {
		t.Errorf("%d warnings:\n%s", lines, log)
	}
}

// times limits how often a fault happens: to requests that read all nodes, or to
// watches that resume.
func times(count int32, goesOn bool, fault func(http.ResponseWriter, *http.Request)) func(http.ResponseWriter, *http.Request) bool {
	var done atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || listsAll(r) == goesOn || done.Add(1) > count {
			return false
		}
		fault(w, r)
		return true
	}
}

// The server's first answer is bad, and soon after the registry has the nodes all
// the same. The first request is a watch that begins with all nodes, or, with an
// old server, a list.
func TestBadAnswers(t *testing.T) {
	type fault = func(*testing.T, http.ResponseWriter, *http.Request)
	answer := func(code int32, reason metav1.StatusReason) fault {
		return func(t *testing.T, w http.ResponseWriter, _ *http.Request) { status(t, w, code, reason) }
	}
	// part is the beginning of all nodes, in the form that r asks for.
	part := func(t *testing.T, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		data := asServer(t, nodesOf(5))
		if r.URL.Query().Get("watch") == "true" {
			data = nil
			for i := range 5 {
				data = append(data, frameOf(t, watch.Added, realistic(i))...)
			}
		}
		_, _ = w.Write(data[:40_000])
		w.(http.Flusher).Flush()
	}
	never := func(_ *testing.T, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, tt := range map[string]struct {
		fault  fault
		goesOn bool   // the watch after the list is answered so
		log    string // a part of it
		// silently: the reflector tries a watch again without telling of it.
		silently bool
	}{
		"500": {fault: answer(500, metav1.StatusReasonInternalError), log: "injected 500"},
		"503 without words": {log: "the server is currently unable", fault: func(_ *testing.T, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}},
		"429 and a time": {fault: func(t *testing.T, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "0")
			status(t, w, 429, metav1.StatusReasonTooManyRequests)
		}},
		"429": {fault: answer(429, metav1.StatusReasonTooManyRequests), log: "injected 429"},
		"410": {fault: answer(410, metav1.StatusReasonExpired)},
		"401": {fault: answer(401, metav1.StatusReasonUnauthorized), log: "the token or certificate is not valid"},
		"403": {fault: answer(403, metav1.StatusReasonForbidden), log: "apply conf/kubernetes/rbac.yaml"},
		"HTML": {log: "is this the address of an API server?", fault: func(_ *testing.T, w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<html>welcome"))
		}},
		"cut": {log: "unexpected EOF", silently: true, fault: part},
		"connection lost": {log: "INTERNAL_ERROR; received from peer", fault: func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			part(t, w, r)
			goruntime.Goexit() // resets the stream, as a handler that panics does
		}},
		"silent": {log: "the API server is silent for 1s", fault: never},
		"silent in the middle": {log: "the API server is silent for 1s", fault: func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			part(t, w, r)
			never(t, w, r)
		}},
		"watch: 500":    {fault: answer(500, metav1.StatusReasonInternalError), goesOn: true, log: "injected 500"},
		"watch: 429":    {fault: answer(429, metav1.StatusReasonTooManyRequests), goesOn: true, log: "injected 429"},
		"watch: 410":    {fault: answer(410, metav1.StatusReasonExpired), goesOn: true},
		"watch: 403":    {fault: answer(403, metav1.StatusReasonForbidden), goesOn: true, log: "apply conf/kubernetes/rbac.yaml"},
		"watch: silent": {fault: never, goesOn: true, log: "the API server is silent for 1s"},
		"watch: closed at once": {goesOn: true, fault: func(_ *testing.T, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		}},
		"watch: another kind": {goesOn: true, log: "unable to decode an event", fault: func(_ *testing.T, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
			_, _ = w.Write(frameOf(t, watch.Added, &corev1.Pod{}))
		}},
		"watch: expired later": {goesOn: true, fault: func(t *testing.T, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
			_, _ = w.Write(frameOf(t, watch.Error, &metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired}))
		}},
		"watch: cut in an event": {goesOn: true, fault: func(t *testing.T, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
			_, _ = w.Write(frameOf(t, watch.Added, realistic(9))[:1000])
		}},
	} {
		for _, old := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, old server: %t", name, old), func(t *testing.T) {
				t.Parallel()
				s := newServer(t)
				if old {
					s.setOld()
				}
				s.put(realistic(1))
				var hits atomic.Int32
				hit := times(1, tt.goesOn, func(w http.ResponseWriter, r *http.Request) { hits.Add(1); tt.fault(t, w, r) })
				s.inject(func(w http.ResponseWriter, r *http.Request) bool {
					return (tt.goesOn || old == (r.URL.Query().Get("watch") != "true")) && hit(w, r)
				})
				r, log := following(t, s)
				await(t, r, "node-00001", "")
				if tt.goesOn && !old {
					s.put(realistic(0)) // the reflector takes a short watch without an event for a failure
					await(t, r, "node-00000 node-00001", "")
					s.drop()
					eventually(t, "the fault", func() bool { return hits.Load() > 0 })
					s.remove("node-00000")
				}
				s.put(realistic(2))
				await(t, r, "node-00001 node-00002", "")
				want := tt.log
				if tt.silently && !old {
					want = ""
				}
				if got := log.String(); !strings.Contains(got, want) || want == "" && got != "" {
					t.Errorf("expected %q in the log:\n%s", want, got)
				}
			})
		}
	}
}

// A server that is slow but not silent is waited for.
func TestSlowList(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(realistic(1))
	s.inject(times(1, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		tick := time.NewTicker(quick().silence / 3)
		defer tick.Stop()
		for i := range 8 {
			_, _ = w.Write(frameOf(t, watch.Added, realistic(i)))
			w.(http.Flusher).Flush()
			<-tick.C
		}
		_, _ = w.Write(endOfList(t, 1))
	}))
	r, log := following(t, s)
	eventually(t, "eight nodes", func() bool { nodes, _ := r.Nodes(); return len(nodes) == 8 })
	if log.String() != "" {
		t.Errorf("the log says\n%s", log)
	}
}

// A failed watch resumes where it ended. The registry lists again only if the
// server refuses to resume.
func TestWatchGoesOnWithoutAList(t *testing.T) {
	answer := func(code int32, reason metav1.StatusReason) func(*testing.T, *server) {
		return func(t *testing.T, s *server) {
			s.inject(times(3, true, func(w http.ResponseWriter, _ *http.Request) { status(t, w, code, reason) }))
			s.drop()
		}
	}
	for name, tt := range map[string]struct {
		trouble func(*testing.T, *server)
		lists   int
	}{
		"restart":   {func(_ *testing.T, s *server) { s.down(); s.up() }, 1},
		"lost":      {func(_ *testing.T, s *server) { s.drop() }, 1},
		"500":       {answer(500, metav1.StatusReasonInternalError), 1},
		"503":       {answer(503, metav1.StatusReasonServiceUnavailable), 1},
		"429":       {answer(429, metav1.StatusReasonTooManyRequests), 1},
		"forbidden": {answer(403, metav1.StatusReasonForbidden), 1},
		"compacted": {answer(410, metav1.StatusReasonExpired), 2},
		"too new":   {answer(400, metav1.StatusReasonBadRequest), 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.put(realistic(1))
			r, log := following(t, s)
			await(t, r, "node-00001", "")
			// The reflector takes a short watch without an event for a failure.
			s.put(realistic(2))
			await(t, r, "node-00001 node-00002", "")
			tt.trouble(t, s)
			s.put(realistic(3))
			await(t, r, "node-00001 node-00002 node-00003", "")
			if got := s.listed(); got != tt.lists && tt.lists == 1 || got < tt.lists {
				t.Errorf("%d lists, want %d:\n%s", got, tt.lists, log)
			}
		})
	}
}

func networkCondition(status corev1.ConditionStatus) corev1.NodeCondition {
	return corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: status, Reason: "NoRouteCreated"}
}

func TestReportNetwork(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := realistic(1)
	setCondition(n, networkCondition("True"))
	s.put(n)
	s.put(realistic(2))
	r, _ := following(t, s)
	await(t, r, "node-00001 node-00002", "")
	is := func(status corev1.ConditionStatus, reason string) func() bool {
		return func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, c := range s.nodes["node-00001"].Status.Conditions {
				if c.Type == corev1.NodeNetworkUnavailable {
					return c.Status == status && c.Reason == reason
				}
			}
			return false
		}
	}
	s.put(realistic(3))
	await(t, r, "node-00001 node-00002 node-00003", "")
	if got := s.patched(); len(got) != 0 {
		t.Errorf("patched without having been asked: %v", got)
	}

	r.ReportNetwork(registry.Report{})
	eventually(t, "up", is("False", reasonUp))
	for range 10 {
		r.ReportNetwork(registry.Report{}) // as each round does
	}
	s.put(realistic(4))
	await(t, r, "node-00001 node-00002 node-00003 node-00004", "")
	if got := len(s.patched()); got != 1 {
		t.Errorf("%d patches for one change", got)
	}

	r.ReportNetwork(registry.Report{Down: errors.New("no such device")})
	eventually(t, "down", is("True", reasonDown))
	r.ReportNetwork(registry.Report{})
	eventually(t, "up again", is("False", reasonUp))

	// Another controller sets it.
	s.mu.Lock()
	other := s.nodes["node-00001"].DeepCopy()
	s.mu.Unlock()
	setCondition(other, networkCondition("True"))
	s.put(other)
	eventually(t, "up after another's change", is("False", reasonUp))

	// The node is made anew.
	s.remove("node-00001")
	s.put(realistic(1))
	eventually(t, "up on the new node", is("False", reasonUp))
}

func TestReportNetworkThroughTrouble(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	r, log := following(t, s)
	r.ReportNetwork(registry.Report{Down: errors.New("too early")})
	r.ReportNetwork(registry.Report{}) // the last word counts, though there is no node yet
	var refused atomic.Int32
	s.inject(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || refused.Add(1) > 3 {
			return false
		}
		status(t, w, 403, metav1.StatusReasonForbidden)
		return true
	})
	s.put(realistic(1))
	eventually(t, "a patch", func() bool { return len(s.patched()) > 0 })
	if got := s.patched(); got[0].Status != corev1.ConditionFalse || got[0].Reason != reasonUp || got[0].LastTransitionTime.IsZero() == (got[0].Status != "False") {
		t.Errorf("got %+v", got)
	}
	if lines := strings.Count(log.String(), "can't set"); lines != 1 || !strings.Contains(log.String(), "rbac.yaml") {
		t.Errorf("%d lines:\n%s", lines, log)
	}
}

func TestReportNetworkNeverWaits(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(realistic(1))
	s.inject(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch {
			<-r.Context().Done()
		}
		return r.Method == http.MethodPatch
	})
	r, _ := following(t, s)
	await(t, r, "node-00001", "")
	begin := time.Now()
	for i := range 100 {
		r.ReportNetwork(registry.Report{Down: fmt.Errorf("reason %d", i)})
	}
	if took := time.Since(begin); took > quick().silence {
		t.Errorf("it took %s", took)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	none := filepath.Join(t.TempDir(), "none")
	for path, want := range map[string]string{
		none: "read the kubeconfig " + none,
		"":   "this is not a pod with a service account, so registry.kubeconfig has to name a kubeconfig",
	} {
		if r, err := New(Options{NodeName: "a", Kubeconfig: path, Log: slog.New(slog.DiscardHandler)}); r != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", path, r, err)
		}
	}
}

// Close ends everything, in whatever state the registry is.
func TestCloseLeavesNothingBehind(t *testing.T) {
	for name, state := range map[string]func(*testing.T, *server, *Registry){
		"following": func(t *testing.T, _ *server, r *Registry) { await(t, r, "node-00001", "") },
		"at once":   func(*testing.T, *server, *Registry) {},
		"down": func(t *testing.T, s *server, r *Registry) {
			await(t, r, "node-00001", "")
			s.down()
		},
		"pausing": func(t *testing.T, s *server, r *Registry) {
			s.inject(func(w http.ResponseWriter, _ *http.Request) bool { status(t, w, 500, "InternalError"); return true })
			s.down()
			s.up()
			eventually(t, "trouble", func() bool { return r.contact.trouble() != nil || len(r.Changed()) > 0 })
		},
		"reporting": func(t *testing.T, s *server, r *Registry) {
			s.inject(func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPatch {
					<-r.Context().Done()
				}
				return r.Method == http.MethodPatch
			})
			await(t, r, "node-00001", "")
			r.ReportNetwork(registry.Report{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.put(realistic(1))
			r, _ := following(t, s)
			state(t, s, r)
			begin := time.Now()
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("it took %s", took)
			}
			before, _ := r.Nodes()
			eventually(t, "no goroutine of it is left", func() bool { return len(leftovers()) == 0 })
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if after, _ := r.Nodes(); len(after) != len(before) {
				t.Errorf("%d nodes after it, %d before", len(after), len(before))
			}
		})
	}
}

// leftovers are the goroutines that a registry or its client run.
func leftovers() []string {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:goruntime.Stack(stacks, true)]
	var left []string
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		for _, part := range []string{"k8s.io/", "kube.(*Registry)", "kube.(*reporter)", "http2clientConnReadLoop", "(*http2ClientConn).readLoop", "(*clientConnReadLoop)", "net/http.(*persistConn)"} {
			if strings.Contains(stack, part) && !strings.Contains(stack, "testing.tRunner") {
				left = append(left, stack)
				break
			}
		}
	}
	return left
}
