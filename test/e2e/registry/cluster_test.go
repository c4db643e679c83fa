package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/pkg/registry/kube"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/apiserver"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/apiserver/apiservertest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

// patient is longer than anything here takes on a busy machine.
const patient = time.Minute

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cluster is an API server behind a wire that can be cut. overlayd has only the
// permissions of conf/kubernetes/rbac.yaml and policy.yaml.
type cluster struct {
	t      *testing.T
	server *apiserver.Server
	admin  *kubernetes.Clientset
	// overlayd is what the service account is given in a pod.
	overlayd *rest.Config
	wire     *wire
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	server := apiservertest.Start(t, apiserver.Options{
		Authorization: "RBAC",
		// Without it a server that is asked to stop waits a minute for watches.
		Flags: []string{"--shutdown-watch-termination-grace-period=1s"},
	})
	config, err := server.Config(apiserver.Admin)
	must(t, err)
	admin, err := kubernetes.NewForConfig(config)
	must(t, err)
	c := &cluster{t: t, server: server, admin: admin, wire: newWire(t, strings.TrimPrefix(server.URL(), "https://"))}
	c.applyRBAC()
	c.applyPolicy()
	c.overlayd = c.as("host-a")
	return c
}

// as is what the service account is given in a pod on that node.
func (c *cluster) as(node string) *rest.Config {
	c.t.Helper()
	config, err := c.server.Config(apiserver.Admin)
	must(c.t, err)
	return &rest.Config{
		Host: "https://" + c.wire.address(), BearerToken: c.token(node),
		TLSClientConfig: rest.TLSClientConfig{CAData: config.CAData},
	}
}

// applyRBAC makes exactly what the file says.
func (c *cluster) applyRBAC() {
	c.t.Helper()
	text, err := os.ReadFile("../../../conf/kubernetes/rbac.yaml")
	must(c.t, err)
	var (
		account corev1.ServiceAccount
		role    rbacv1.ClusterRole
		binding rbacv1.ClusterRoleBinding
	)
	documents := yaml.NewYAMLToJSONDecoder(bytes.NewReader(text))
	must(c.t, errors.Join(documents.Decode(&account), documents.Decode(&role), documents.Decode(&binding)))
	if err := documents.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		c.t.Fatalf("there is more in the file than this test applies: %v", err)
	}
	// A new server makes its own namespaces after it says that it is ready.
	eventually(c.t, "the service account", func() error {
		_, err := c.admin.CoreV1().ServiceAccounts(account.Namespace).Create(c.t.Context(), &account, metav1.CreateOptions{})
		return err
	})
	_, err = c.admin.RbacV1().ClusterRoles().Create(c.t.Context(), &role, metav1.CreateOptions{})
	must(c.t, err)
	_, err = c.admin.RbacV1().ClusterRoleBindings().Create(c.t.Context(), &binding, metav1.CreateOptions{})
	must(c.t, err)
}

// applyPolicy makes exactly what the file says, and waits until the server goes by it:
// that the account's own token, which belongs to no node, can change nothing.
func (c *cluster) applyPolicy() {
	c.t.Helper()
	text, err := os.ReadFile("../../../conf/kubernetes/policy.yaml")
	must(c.t, err)
	var (
		policy  admissionv1.ValidatingAdmissionPolicy
		binding admissionv1.ValidatingAdmissionPolicyBinding
	)
	documents := yaml.NewYAMLToJSONDecoder(bytes.NewReader(text))
	must(c.t, errors.Join(documents.Decode(&policy), documents.Decode(&binding)))
	admission := c.admin.AdmissionregistrationV1()
	_, err = admission.ValidatingAdmissionPolicies().Create(c.t.Context(), &policy, metav1.CreateOptions{})
	must(c.t, err)
	_, err = admission.ValidatingAdmissionPolicyBindings().Create(c.t.Context(), &binding, metav1.CreateOptions{})
	must(c.t, err)
	const probe = "host-probe"
	c.create(probe, "192.0.2.250", "10.244.250.0/24")
	eventually(c.t, "the policy", func() error {
		err := c.patchStatus("", probe, `{"metadata":{"labels":{"x":"y"}}}`)
		if !apierrors.IsForbidden(err) {
			return fmt.Errorf("not forbidden: %w", err)
		}
		return nil
	})
	c.delete(probe)
}

// patchStatus patches a Node's status with the token of overlayd on a node; "" is a token
// of no node.
func (c *cluster) patchStatus(by, node, patch string) error {
	c.t.Helper()
	overlayd, err := kubernetes.NewForConfig(c.as(by))
	must(c.t, err)
	_, err = overlayd.CoreV1().Nodes().Patch(c.t.Context(), node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	return err
}

// token is the account's, bound to a pod on the node as kubelet asks for it.
func (c *cluster) token(node string) string {
	c.t.Helper()
	request := &authenticationv1.TokenRequest{}
	if node != "" {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "overlay-cni-", Namespace: "kube-system"},
			Spec: corev1.PodSpec{
				NodeName: node, ServiceAccountName: "overlay-cni",
				Containers: []corev1.Container{{Name: "overlayd", Image: "none"}},
			},
		}
		pod, err := c.admin.CoreV1().Pods("kube-system").Create(c.t.Context(), pod, metav1.CreateOptions{})
		must(c.t, err)
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	answer, err := c.admin.CoreV1().ServiceAccounts("kube-system").CreateToken(c.t.Context(), "overlay-cni", request, metav1.CreateOptions{})
	must(c.t, err)
	return answer.Status.Token
}

// follow starts a registry on host-a, as overlayd's service account.
func (c *cluster) follow() (*kube.Registry, *journal) {
	c.t.Helper()
	log := &journal{}
	r, err := kube.New(kube.Options{NodeName: "host-a", Kubeconfig: c.kubeconfig(), Log: slog.New(slog.NewTextHandler(log, nil))})
	must(c.t, err)
	c.t.Cleanup(func() { must(c.t, r.Close()) })
	return r, log
}

// kubeconfig names the token by its file, as a pod has it.
func (c *cluster) kubeconfig() string {
	dir := c.t.TempDir()
	token, path := filepath.Join(dir, "token"), filepath.Join(dir, "kubeconfig")
	must(c.t, os.WriteFile(token, []byte(c.overlayd.BearerToken), 0o600))
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: c.overlayd.Host, CertificateAuthorityData: c.overlayd.CAData}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{TokenFile: token}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	must(c.t, clientcmd.WriteToFile(*file, path))
	return path
}

// create makes a node as kubelet and controller manager do together.
func (c *cluster) create(name, address, cidr string) {
	c.t.Helper()
	_, err := c.admin.CoreV1().Nodes().Create(c.t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}},
		},
	}, metav1.CreateOptions{})
	must(c.t, err)
}

func (c *cluster) delete(name string) {
	c.t.Helper()
	must(c.t, c.admin.CoreV1().Nodes().Delete(c.t.Context(), name, metav1.DeleteOptions{}))
}

// annotate sets host-b's address annotation to a JSON value: "x", or null.
func (c *cluster) annotate(value string) {
	c.t.Helper()
	patch := `{"metadata":{"annotations":{"` + kube.AddressAnnotation + `":` + value + `}}}`
	_, err := c.admin.CoreV1().Nodes().Patch(c.t.Context(), "host-b", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	must(c.t, err)
}

// conditions are host-a's: the type, and what it says.
func (c *cluster) conditions() map[corev1.NodeConditionType]corev1.NodeCondition {
	c.t.Helper()
	n, err := c.admin.CoreV1().Nodes().Get(c.t.Context(), "host-a", metav1.GetOptions{})
	must(c.t, err)
	all := map[corev1.NodeConditionType]corev1.NodeCondition{}
	for _, condition := range n.Status.Conditions {
		all[condition.Type] = condition
	}
	return all
}

// shown is a set of nodes in a line.
func shown(nodes []registry.Node) string {
	var all []string
	for _, n := range nodes {
		line := n.Name
		for _, a := range n.Addresses {
			line += " " + a.String()
		}
		for _, p := range n.Subnets {
			line += " " + p.String()
		}
		all = append(all, line)
	}
	return strings.Join(all, ", ")
}

// await returns when nodes and error are as wanted, looking only when Changed
// says so.
func await(t *testing.T, r *kube.Registry, want, wantErr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	for {
		nodes, err := r.Nodes()
		is := ""
		if err != nil {
			is = err.Error()
		}
		if shown(nodes) == want && (is == "") == (wantErr == "") && strings.Contains(is, wantErr) {
			return
		}
		select {
		case <-r.Changed():
		case <-ctx.Done():
			t.Fatalf("nodes %q, error %q; want nodes %q, error %q", shown(nodes), is, want, wantErr)
		}
	}
}

// eventually polls what gives no signal.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	end := time.Now().Add(patient)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not in %s: %v", what, patient, err)
		}
		<-ticker.C
	}
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

// wire passes connections on to the API server until it is cut.
type wire struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func newWire(t *testing.T, to string) *wire {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	w := &wire{listener: l, to: to, conns: map[net.Conn]bool{}}
	go w.accept()
	t.Cleanup(func() { w.setCut(true); _ = l.Close() })
	return w
}

func (w *wire) address() string { return w.listener.Addr().String() }

func (w *wire) accept() {
	for {
		from, err := w.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", w.to)
		if err != nil || !w.keep(from, to) {
			_ = from.Close()
			continue
		}
		go pass(from, to)
		go pass(to, from)
	}
}

func pass(from, to net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
}

// keep remembers connections to end, or ends them.
func (w *wire) keep(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		if w.cut {
			_ = c.Close()
		}
		w.conns[c] = true
	}
	return !w.cut
}

// setCut ends all connections, and those to come until it is mended.
func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	for c := range w.conns {
		_ = c.Close()
	}
	clear(w.conns)
}
