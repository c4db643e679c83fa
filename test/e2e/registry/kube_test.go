package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/overlay-cni/overlay-cni/pkg/registry"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/apiserver/apiservertest"
)

const (
	hostA = "host-a 192.0.2.1 10.244.1.0/24"
	hostB = "host-b 192.0.2.2 10.244.2.0/24"
	hostC = "host-c fd77::3 fd44:0:0:3::/64"
)

func (c *cluster) createA() { c.t.Helper(); c.create("host-a", "192.0.2.1", "10.244.1.0/24") }
func (c *cluster) createB() { c.t.Helper(); c.create("host-b", "192.0.2.2", "10.244.2.0/24") }
func (c *cluster) createC() { c.t.Helper(); c.create("host-c", "fd77::3", "fd44:0:0:3::/64") }

// The role is enough for everything that the package does, and for nothing
// else.
func TestRoleIsExactlyEnough(t *testing.T) {
	c := newCluster(t)
	c.createA()
	r, _ := c.follow()
	await(t, r, hostA, "") // list
	c.createB()
	await(t, r, hostA+", "+hostB, "") // watch
	r.ReportNetwork(registry.Report{})
	c.awaitCondition(corev1.ConditionFalse) // patch

	overlayd, err := kubernetes.NewForConfig(c.overlayd)
	must(t, err)
	if _, err := overlayd.CoreV1().Nodes().Get(t.Context(), "host-a", metav1.GetOptions{}); err != nil {
		t.Errorf("get: %v", err)
	}
	t.Run("rules", func(t *testing.T) { checkRules(t, overlayd) })
	t.Run("refused", func(t *testing.T) { checkRefused(t, overlayd) })
}

// checkRules asks the server what the account may do beside what every account
// may: ask about itself, and since Kubernetes 1.37 read trust bundles, which are
// public (system:cluster-trust-bundle-discovery).
func checkRules(t *testing.T, overlayd *kubernetes.Clientset) {
	review, err := overlayd.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "kube-system"}}, metav1.CreateOptions{})
	must(t, err)
	granted := map[string]bool{}
	for _, rule := range review.Status.ResourceRules {
		for _, group := range rule.APIGroups {
			if group == "authorization.k8s.io" || group == "authentication.k8s.io" {
				continue
			}
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					if resource == "clustertrustbundles" && slices.Contains([]string{"get", "list", "watch"}, verb) {
						continue
					}
					granted[fmt.Sprintf("%s %s%s %v", verb, group, resource, rule.ResourceNames)] = true
				}
			}
		}
	}
	for _, want := range []string{"get nodes []", "list nodes []", "watch nodes []", "patch nodes/status []"} {
		if !granted[want] {
			t.Errorf("%s is not granted", want)
		}
		delete(granted, want)
	}
	for more := range granted {
		t.Errorf("%s is granted", more)
	}
}

func checkRefused(t *testing.T, overlayd *kubernetes.Clientset) {
	ctx, nodes := t.Context(), overlayd.CoreV1().Nodes()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host-a"}}
	patch := []byte(`{"spec":{"unschedulable":true}}`)
	for what, try := range map[string]func() error{
		"create a node": func() error { _, err := nodes.Create(ctx, node, metav1.CreateOptions{}); return err },
		"update a node": func() error { _, err := nodes.Update(ctx, node, metav1.UpdateOptions{}); return err },
		"update a status": func() error {
			_, err := nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
			return err
		},
		"patch a spec": func() error {
			_, err := nodes.Patch(ctx, "host-a", types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
		"delete a node": func() error { return nodes.Delete(ctx, "host-a", metav1.DeleteOptions{}) },
		"list pods": func() error {
			_, err := overlayd.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{})
			return err
		},
		"get a secret": func() error {
			_, err := overlayd.CoreV1().Secrets("kube-system").Get(ctx, "x", metav1.GetOptions{})
			return err
		},
		"patch a pod's status": func() error {
			_, err := overlayd.CoreV1().Pods("kube-system").Patch(ctx, "x", types.MergePatchType, []byte("{}"), metav1.PatchOptions{}, "status")
			return err
		},
		"get a service account": func() error {
			_, err := overlayd.CoreV1().ServiceAccounts("kube-system").Get(ctx, "overlay-cni", metav1.GetOptions{})
			return err
		},
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want forbidden", what, err)
		}
	}
	// Through the status, a patch can't reach the rest of a node.
	n, err := nodes.Patch(ctx, "host-a", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	must(t, err)
	if n.Spec.Unschedulable {
		t.Error("the spec was changed through the status")
	}
}

// awaitCondition waits for host-a's NetworkUnavailable to have a status.
func (c *cluster) awaitCondition(want corev1.ConditionStatus) {
	c.t.Helper()
	eventually(c.t, "the condition", func() error {
		if got := c.conditions()[corev1.NodeNetworkUnavailable]; got.Status != want {
			return fmt.Errorf("it is %+v, want %s", got, want)
		}
		return nil
	})
}

// Without the role the operator is told what is missing, and nothing but the
// role has to be mended.
func TestWithoutTheRole(t *testing.T) {
	c := newCluster(t)
	c.createA()
	binding, err := c.admin.RbacV1().ClusterRoleBindings().Get(t.Context(), "overlay-cni", metav1.GetOptions{})
	must(t, err)
	must(t, c.admin.RbacV1().ClusterRoleBindings().Delete(t.Context(), "overlay-cni", metav1.DeleteOptions{}))
	r, log := c.follow()
	eventually(t, "the reason", func() error {
		_, err := r.Nodes()
		if !errors.Is(err, registry.ErrNotReady) || !strings.Contains(err.Error(), "apply conf/kubernetes/rbac.yaml") {
			return fmt.Errorf("it is %w", err)
		}
		return nil
	})
	binding.ResourceVersion, binding.UID = "", ""
	_, err = c.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{})
	must(t, err)
	await(t, r, hostA, "")
	if lines := strings.Count(log.String(), "level=WARN"); lines != 1 {
		t.Errorf("%d warnings:\n%s", lines, log)
	}
}

func TestCondition(t *testing.T) {
	c := newCluster(t)
	c.createA()
	r, _ := c.follow()
	r.ReportNetwork(registry.Report{})
	c.awaitCondition(corev1.ConditionFalse)
	up := c.conditions()
	if got := up[corev1.NodeNetworkUnavailable]; got.Reason != "OverlayIsUp" || got.Message == "" || time.Since(got.LastTransitionTime.Time) > time.Minute {
		t.Errorf("the condition is %+v", got)
	}
	if got := up[corev1.NodeReady]; got.Status != corev1.ConditionTrue || got.Reason != "KubeletReady" || len(up) != 2 {
		t.Errorf("the others are %+v", up)
	}
	r.ReportNetwork(registry.Report{Down: errors.New("the tunnel: no such device")})
	c.awaitCondition(corev1.ConditionTrue)
	if got := c.conditions()[corev1.NodeNetworkUnavailable]; got.Reason != "OverlayIsDown" || got.Message != "the tunnel: no such device" {
		t.Errorf("the condition is %+v", got)
	}
	// The server is away while the network comes up.
	must(t, c.server.APIServer.Kill())
	r.ReportNetwork(registry.Report{})
	must(t, c.server.APIServer.Start())
	apiservertest.AwaitReady(t, c.server)
	c.awaitCondition(corev1.ConditionFalse)
	// The kubelet makes its node anew.
	c.delete("host-a")
	c.createA()
	c.awaitCondition(corev1.ConditionFalse)
}

// The operator's address counts from the moment it is written.
func TestAnnotation(t *testing.T) {
	c := newCluster(t)
	c.createA()
	c.createB()
	r, _ := c.follow()
	await(t, r, hostA+", "+hostB, "")
	begin := time.Now()
	c.annotate(`"203.0.113.2, fd99::2"`)
	await(t, r, hostA+", host-b 203.0.113.2 fd99::2 10.244.2.0/24", "")
	t.Logf("it took %s from the operator's patch to the set", time.Since(begin))
	// Mistakes leave the last good address.
	const kept = hostA + ", host-b 203.0.113.2 fd99::2 10.244.2.0/24"
	c.annotate(`"eth0"`)
	await(t, r, kept, `node "host-b": annotation overlay-cni.io/address is "eth0"`)
	c.annotate(`"192.0.2.1"`)
	await(t, r, kept, `node "host-b": address 192.0.2.1 is also the address of node "host-a"`)
	c.annotate(`null`)
	await(t, r, hostA+", "+hostB, "")
}

// A node joins as in life: without a subnet, which the controller manager adds.
func TestNodeWaitsForItsSubnet(t *testing.T) {
	c := newCluster(t)
	_, err := c.admin.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "host-a"}}, metav1.CreateOptions{})
	must(t, err)
	r, _ := c.follow()
	await(t, r, "", `node "host-a" has no address`)
	_, err = c.admin.CoreV1().Nodes().Patch(t.Context(), "host-a", types.StrategicMergePatchType,
		[]byte(`{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}}`), metav1.PatchOptions{}, "status")
	must(t, err)
	await(t, r, "host-a 192.0.2.1", "--allocate-node-cidrs")
	_, err = c.admin.CoreV1().Nodes().Patch(t.Context(), "host-a", types.StrategicMergePatchType,
		[]byte(`{"spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"]}}`), metav1.PatchOptions{})
	must(t, err)
	await(t, r, hostA, "")
}

func TestServerComesAndGoes(t *testing.T) {
	c := newCluster(t)
	c.createA()
	c.createB()
	must(t, c.server.APIServer.Kill())
	r, log := c.follow()
	eventually(t, "the reason", func() error {
		if _, err := r.Nodes(); !errors.Is(err, registry.ErrNotReady) || !strings.Contains(err.Error(), c.overlayd.Host) {
			return fmt.Errorf("it is %w", err)
		}
		return nil
	})
	must(t, c.server.APIServer.Start())
	await(t, r, hostA+", "+hostB, "")
	for name, end := range map[string]func() error{
		"killed":      c.server.APIServer.Kill,
		"stopped":     func() error { return c.server.APIServer.Stop(t.Context()) },
		"etcd killed": func() error { return errors.Join(c.server.Etcd.Kill(), c.server.APIServer.Kill()) },
	} {
		t.Run(name, func(t *testing.T) {
			must(t, end())
			if nodes, err := r.Nodes(); shown(nodes) != hostA+", "+hostB || err != nil {
				t.Errorf("while it is away: nodes %q, %v", shown(nodes), err)
			}
			must(t, errors.Join(c.server.Etcd.Start(), c.server.APIServer.Start()))
			apiservertest.AwaitReady(t, c.server)
			c.createC()
			await(t, r, hostA+", "+hostB+", "+hostC, "")
			c.delete("host-c")
			await(t, r, hostA+", "+hostB, "")
		})
	}
	if errs := strings.Count(log.String(), "level=ERROR"); errs != 0 {
		t.Errorf("%d errors in the log:\n%s", errs, log)
	}
}

// The client was away for so long that the server has forgotten what came
// between: it says 410 Gone, and nodes that went meanwhile must go here, too.
func TestVersionIsGone(t *testing.T) {
	c := newCluster(t)
	c.createA()
	c.createB()
	r, _ := c.follow()
	await(t, r, hostA+", "+hostB, "")
	c.wire.setCut(true)
	c.delete("host-b")
	c.createC()
	// A server remembers changes since its start only.
	must(t, c.server.APIServer.Restart(t.Context()))
	apiservertest.AwaitReady(t, c.server)
	if nodes, err := r.Nodes(); shown(nodes) != hostA+", "+hostB || err != nil {
		t.Errorf("while it is away: nodes %q, %v", shown(nodes), err)
	}
	c.wire.setCut(false)
	await(t, r, hostA+", "+hostC, "")
	c.createB()
	await(t, r, hostA+", "+hostB+", "+hostC, "")
}
