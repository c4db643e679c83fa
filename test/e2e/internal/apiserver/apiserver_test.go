package apiserver_test

import (
	"bufio"
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/apiserver"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/apiserver/apiservertest"
)

// client is a user's, made from the kubeconfig file as programs do it.
func client(t *testing.T, s *apiserver.Server, user string) *kubernetes.Clientset {
	t.Helper()
	path, err := s.Kubeconfig(user)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// nodeName is the only node.
const nodeName = "host-a"

func createNode(t *testing.T, c *kubernetes.Clientset) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	if _, err := c.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func hasNode(ctx context.Context, c *kubernetes.Clientset) error {
	_, err := c.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	return err
}

func TestSurvivesItsServers(t *testing.T) {
	s := apiservertest.Start(t, apiserver.Options{})
	admin := client(t, s, apiserver.Admin)
	createNode(t, admin)
	for name, end := range map[string]func() error{
		"stopped":     func() error { return s.APIServer.Stop(t.Context()) },
		"killed":      s.APIServer.Kill,
		"etcd killed": func() error { return errors.Join(s.Etcd.Kill(), s.APIServer.Kill()) },
		"restarted":   func() error { return s.APIServer.Restart(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := end(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(s.Etcd.Start(), s.APIServer.Start()); err != nil {
				t.Fatal(err)
			}
			apiservertest.AwaitReady(t, s)
			if err := hasNode(t.Context(), admin); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("frozen", func(t *testing.T) { frozen(t, s, admin) })
}

// frozen: to clients a server that doesn't answer differs from a server that ended.
func frozen(t *testing.T, s *apiserver.Server, c *kubernetes.Clientset) {
	if err := s.APIServer.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := hasNode(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a frozen server answers: %v", err)
	}
	if err := s.APIServer.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := hasNode(t.Context(), c); err != nil {
		t.Error(err)
	}
}

func TestRBACAllowsWhatRolesSay(t *testing.T) {
	s := apiservertest.Start(t, apiserver.Options{
		Authorization: "RBAC", Users: []apiserver.User{{Name: "reader", Groups: []string{"readers"}}},
	})
	admin, reader := client(t, s, apiserver.Admin), client(t, s, "reader")
	createNode(t, admin)
	if err := hasNode(t.Context(), reader); !apierrors.IsForbidden(err) {
		t.Fatalf("without a role: %v, want forbidden", err)
	}
	allow(t, admin, "readers", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}})
	eventually(t, func() error { return hasNode(t.Context(), reader) })
	err := reader.CoreV1().Nodes().Delete(t.Context(), nodeName, metav1.DeleteOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("delete: %v, want forbidden", err)
	}
}

func allow(t *testing.T, admin *kubernetes.Clientset, group string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: group}
	_, err := admin.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: group}},
		RoleRef:    rbacv1.RoleRef{Kind: "ClusterRole", APIGroup: rbacv1.GroupName, Name: group},
	}
	if _, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// eventually polls for what the apiserver learns by a watch of its own.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-ticker.C
	}
}

// The server is where its caller was, also after a restart from elsewhere.
func TestStaysInItsNamespace(t *testing.T) {
	ns := sandboxtest.NewNetns(t)
	var s *apiserver.Server
	sandboxtest.Do(t, ns, func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), apiservertest.StartTime)
		defer cancel()

		s, err = apiserver.Start(ctx, apiserver.Options{Dir: t.TempDir(), Address: netip.MustParseAddr("127.0.0.9")})
		return err
	})
	t.Cleanup(func() { _ = s.Close() })
	if err := s.APIServer.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	apiservertest.AwaitReady(t, s)
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range serverPIDs(t) {
		got, err := os.Readlink(filepath.Join("/proc", pid, "ns/net"))
		if err != nil || got == own {
			t.Errorf("process %s is in namespace %q (error %v), and the test's own is %q", pid, got, err, own)
		}
	}
}

// serverPIDs are the processes of this sandbox that are servers.
func serverPIDs(t *testing.T) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && filepath.Base(exe) == "hyperkube" {
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	return pids
}

func TestEndsWithItsProgram(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holdEnv+"="+t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("it says %q (%v)", line, err)
	}
	if pids := serverPIDs(t); len(pids) != 2 {
		t.Errorf("%d servers run before the kill", len(pids))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	eventually(t, func() error {
		if pids := serverPIDs(t); len(pids) > 0 {
			return errors.New("servers outlive their program: " + strings.Join(pids, ", "))
		}
		return nil
	})
}

func TestSaysWhatIsWrong(t *testing.T) {
	empty := t.TempDir()
	for name, c := range map[string]struct {
		options apiserver.Options
		want    string
	}{
		"no programs":     {apiserver.Options{Bin: empty}, "start etcd"},
		"a wrong flag":    {apiserver.Options{Flags: []string{"--no-such-flag"}}, "unknown flag: --no-such-flag"},
		"two admins":      {apiserver.Options{Users: []apiserver.User{{Name: apiserver.Admin}}}, "is there already"},
		"an odd name":     {apiserver.Options{Users: []apiserver.User{{Name: "a,b"}}}, "must do without commas"},
		"not our address": {apiserver.Options{Address: netip.MustParseAddr("192.0.2.1")}, "192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			c.options.Dir = t.TempDir()
			ctx, cancel := context.WithTimeout(t.Context(), apiservertest.StartTime)
			defer cancel()
			_, err := apiserver.Start(ctx, c.options)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if pids := serverPIDs(t); len(pids) > 0 {
				t.Errorf("servers still run: %v", pids)
			}
		})
	}
}
