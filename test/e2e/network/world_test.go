package network

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

// The environment says where the cluster is and what it was made of.
const (
	dirEnv      = "E2E_DIR"
	binEnv      = "E2E_BIN"
	manifestEnv = "E2E_MANIFEST"
)

const (
	// patient is longer than anything here takes on a busy machine.
	patient = 2 * time.Minute
	// prompt bounds answers of what runs already: a slower answer was lost and sent
	// again.
	prompt = 5 * time.Second
)

// world is a test's view of the cluster, with a Kubernetes namespace of its own.
type world struct {
	*testing.T
	cluster   *cluster.Cluster
	client    *kubernetes.Clientset
	namespace string
	outside   *sandbox.Netns
}

func newWorld(t *testing.T) *world {
	t.Helper()
	c, err := cluster.Open(cluster.Options{
		Dir: env(dirEnv, "/tmp/overlay-e2e"), Bin: env(binEnv, "../../../bin/e2e"), Log: slog.New(slog.DiscardHandler),
		Manifest: manifest(),
	})
	w := &world{T: t, cluster: c}
	w.must(err)
	w.client, err = c.Client()
	w.must(err)
	w.outside = w.netns(cluster.Switch)
	ns, err := w.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"},
	}, metav1.CreateOptions{})
	w.must(err)
	w.namespace = ns.Name
	t.Cleanup(w.close)
	// Pods need the account, which is made a moment after the namespace.
	w.eventually("the namespace's service account", func(ctx context.Context) error {
		_, err := w.client.CoreV1().ServiceAccounts(w.namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return w
}

// each runs a test in each family that the cluster has.
func (w *world) each(test func(*world, cluster.Family)) {
	w.Helper()
	for _, f := range w.cluster.Families {
		w.Run(f.Name, func(t *testing.T) {
			test(w.within(t), f)
		})
	}
}

// within is the same world for a part of the test.
func (w *world) within(t *testing.T) *world {
	part := *w
	part.T = t
	return &part
}

func manifest() string { return env(manifestEnv, "../../../conf/kubernetes/overlay-cni.yaml") }

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// close removes the namespace, and waits until its pods are gone.
func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	if err := w.client.CoreV1().Namespaces().Delete(ctx, w.namespace, metav1.DeleteOptions{}); err != nil {
		w.Error(err)
	}
	w.await(ctx, "pods of the test to be gone", func(ctx context.Context) error {
		pods, err := w.client.CoreV1().Pods(w.namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d are left", len(pods.Items))
		}
		return err
	})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// netns is a node's or the switch's network namespace, until the test ends.
func (w *world) netns(of string) *sandbox.Netns {
	w.Helper()
	ns, err := w.cluster.Netns(of)
	w.must(err)
	w.Cleanup(func() { _ = ns.Close() })
	return ns
}

// eventually waits for changes that the cluster makes after a while.
func (w *world) eventually(what string, look func(context.Context) error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patient)
	defer cancel()
	w.await(ctx, what, look)
}

func (w *world) await(ctx context.Context, what string, look func(context.Context) error) {
	w.Helper()
	w.must(cluster.Poll(ctx, what, look))
}

// get asks a web server, on a connection of its own from a namespace.
func get(ctx context.Context, from *sandbox.Netns, at netip.AddrPort, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, prompt)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialIn(from)}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, http.NoBody)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", request.URL, answer.Status, text)
	}
	return string(text), err
}

// dialIn opens sockets in a namespace, for literal addresses.
func dialIn(ns *sandbox.Netns) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = ns.Do(func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// hostFile is a file of a node as its own programs see it.
func (w *world) hostFiles(node, pattern string) []string {
	w.Helper()
	root, err := w.cluster.Root(node)
	w.must(err)
	found, err := filepath.Glob(filepath.Join(root, pattern))
	w.must(err)
	return found
}
