package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

// The commands of docs/install.md leave clean nodes, on which the product can be
// installed again. The network configuration has another name than is usual, and
// under that one it is still there, too.
func TestUninstall(t *testing.T) {
	w := newWorld(t)
	pods := w.onAllNodes("a")
	w.onNode("host-port", "worker1", func(s *corev1.PodSpec) {
		s.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: webPort, HostPort: 18080}}
	})
	t.Run("nodes are clean", func(t *testing.T) {
		w := w.within(t)
		t.Cleanup(w.install)
		w.renameConflist("05-pods.conflist")
		w.kubectl("replace", "--save-config", "-f", filepath.Join(filepath.Dir(manifest()), "uninstall.yaml"))
		if _, err := w.cluster.Kubectl(t.Context(), "-n", system, "rollout", "status", "--timeout=2m", "daemonset/"+daemonSet); err != nil {
			t.Fatalf("%v: %s", err, w.kubectl("-n", system, "logs", "--prefix", "--tail=5", "--container=uninstall", "daemonset/"+daemonSet, "--all-pods"))
		}
		w.kubectl("delete", "-f", manifest())
		if left := w.kubectl("get", "--ignore-not-found", "-f", manifest()); left != "" {
			t.Errorf("the API has still: %s", left)
		}
		for _, n := range w.cluster.Nodes {
			for _, what := range w.traces(n.Name) {
				t.Errorf("%s has still %s", n.Name, what)
			}
		}
	})
	w.anew(w.namespace)
	w.mesh(w.ready("a", len(pods)))
	w.clean()
}

// renameConflist has the daemons write it under that name from now on.
func (w *world) renameConflist(name string) {
	w.Helper()
	const settings, before = "overlayd.yaml", "  confDir: /etc/cni/net.d\n"
	maps, pods := w.client.CoreV1().ConfigMaps(system), w.client.CoreV1().Pods(system)
	m, err := maps.Get(w.Context(), daemonSet, metav1.GetOptions{})
	w.must(err)
	m.Data[settings] = strings.Replace(m.Data[settings], before, before+"  confName: "+name+"\n", 1)
	_, err = maps.Update(w.Context(), m, metav1.UpdateOptions{})
	w.must(err)
	w.must(pods.DeleteCollection(w.Context(), now, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + daemonSet}))
	w.eventually("the configuration "+name, func(context.Context) error {
		for _, n := range w.cluster.Nodes {
			if found := w.hostFiles(n.Name, "etc/cni/net.d/"+name); len(found) == 0 {
				return fmt.Errorf("%s has none: %q", n.Name, w.hostFiles(n.Name, "etc/cni/net.d/*"))
			}
		}
		return nil
	})
}

func (w *world) kubectl(args ...string) string {
	w.Helper()
	out, err := w.cluster.Kubectl(w.Context(), args...)
	w.must(err)
	return out
}

// install makes the cluster again what it was before an uninstall. Pods that had
// the old network are made anew, as docs/install.md says.
func (w *world) install() {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	_, err := w.cluster.Kubectl(ctx, "apply", "-f", manifest())
	w.must(errors.Join(err, w.rolledOut(ctx)))
	w.must(w.client.CoreV1().Pods(system).DeleteCollection(ctx, now, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"}))
	w.must(w.cluster.AwaitReady(ctx))
}

// anew deletes the pods of a namespace, for their owners to make others.
func (w *world) anew(namespace string) {
	w.Helper()
	old, err := w.client.CoreV1().Pods(namespace).List(w.Context(), metav1.ListOptions{})
	w.must(err)
	w.must(w.client.CoreV1().Pods(namespace).DeleteCollection(w.Context(), now, metav1.ListOptions{}))
	w.eventually("the old pods to go", func(ctx context.Context) error {
		all, err := w.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range all.Items {
			for _, o := range old.Items {
				if p.UID == o.UID {
					return fmt.Errorf("%s is there", p.Name)
				}
			}
		}
		return nil
	})
}

// traces are what the product could have left on a node.
func (w *world) traces(node string) []string {
	w.Helper()
	var found []string
	// The run directory itself is where the uninstaller's container has it mounted.
	for _, pattern := range []string{"run/overlay-cni/*", "run/overlay-cni/.*", "etc/cni/net.d/*", "opt/cni/bin/overlay-cni"} {
		for _, path := range w.hostFiles(node, pattern) {
			if filepath.Base(path) != ".keep" {
				found = append(found, path)
			}
		}
	}
	cmd, err := w.cluster.Command(w.Context(), node, "nft", "list", "ruleset")
	w.must(err)
	rules, err := cmd.Output()
	w.must(err)
	for line := range strings.Lines(string(rules)) {
		if strings.Contains(strings.ToLower(line), "overlay-cni") {
			found = append(found, "rule "+line)
		}
	}
	w.must(w.cluster.At(node, func(_ *sandbox.Netns, h *netlink.Handle) error {
		left, err := w.netTraces(h)
		found = append(found, left...)
		return err
	}))
	return found
}

// netTraces are devices and routes. What a node had before were its cable and lo,
// and no way to any pod.
func (w *world) netTraces(h *netlink.Handle) (found []string, err error) {
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if !slices.Contains([]string{"lo", "eth0"}, l.Attrs().Name) {
			found = append(found, "device "+l.Attrs().Name)
		}
	}
	routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
	for _, r := range routes {
		if r.Dst != nil && w.toPods(r.Dst.IP) {
			found = append(found, "route "+r.String())
		}
	}
	return found, err
}

func (w *world) toPods(ip []byte) bool {
	to, _ := netip.AddrFromSlice(ip)
	return slices.ContainsFunc(w.cluster.Families, func(f cluster.Family) bool { return f.Pods.Contains(to.Unmap()) })
}
