package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/images"
)

// Ports of the servers in pods.
const (
	webPort  = 8080
	udpPort  = 8081
	echoPort = 9 // of servers that tests start in pods' namespaces
)

// appLabel is how Services find pods.
const appLabel = "app"

// pod is one that runs.
type pod struct {
	name      string
	node      string
	addresses []netip.Addr // one of each family
	hosts     []netip.Addr // its node's
	netns     *sandbox.Netns
}

func (p pod) at(f cluster.Family, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(f.Of(p.addresses), port)
}

func (p pod) String() string { return fmt.Sprintf("%s on %s", p.name, p.node) }

// server is a pod with a web server that tells its name, and who asked.
func server(app string) corev1.PodSpec {
	grace := int64(0)
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Containers: []corev1.Container{{
			Name: app, Image: images.Agnhost, Args: []string{"netexec", fmt.Sprintf("--http-port=%d", webPort), fmt.Sprintf("--udp-port=%d", udpPort)},
			ReadinessProbe: &corev1.Probe{
				PeriodSeconds: 1,
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: portNumber(webPort)}},
			},
		}},
	}
}

func (w *world) meta(app string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: app, Namespace: w.namespace, Labels: map[string]string{appLabel: app}}
}

// onAllNodes runs a server on every node.
func (w *world) onAllNodes(app string) []pod {
	w.Helper()
	labels := map[string]string{appLabel: app}
	_, err := w.client.AppsV1().DaemonSets(w.namespace).Create(w.Context(), &appsv1.DaemonSet{
		ObjectMeta: w.meta(app),
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: server(app)},
		},
	}, metav1.CreateOptions{})
	w.must(err)
	return w.ready(app, len(w.cluster.Nodes))
}

// onNode runs one pod on a node, with what change does to it.
func (w *world) onNode(app, node string, change func(*corev1.PodSpec)) pod {
	w.Helper()
	spec := server(app)
	spec.NodeName = node
	if change != nil {
		change(&spec)
	}
	_, err := w.client.CoreV1().Pods(w.namespace).Create(w.Context(), &corev1.Pod{ObjectMeta: w.meta(app), Spec: spec}, metav1.CreateOptions{})
	w.must(err)
	return w.ready(app, 1)[0]
}

// ready waits until n pods are ready, and enters their namespaces.
func (w *world) ready(app string, n int) []pod {
	w.Helper()
	var found []pod
	w.eventually(fmt.Sprintf("%d pods %s", n, app), func(ctx context.Context) error {
		list, err := w.client.CoreV1().Pods(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: appLabel + "=" + app})
		if err != nil {
			return err
		}
		found = nil
		for _, p := range list.Items {
			if !isReady(p) {
				return fmt.Errorf("%s on %s is %s: %v", p.Name, p.Spec.NodeName, p.Status.Phase, p.Status.Conditions)
			}
			one, err := w.pod(p)
			if err != nil {
				return err
			}
			found = append(found, one)
		}
		if len(found) != n {
			return fmt.Errorf("there are %d pods", len(found))
		}
		return w.enter(found)
	})
	return found
}

// pod: it and its node have one address of each family of the cluster.
func (w *world) pod(p corev1.Pod) (pod, error) {
	one := pod{name: p.Name, node: p.Spec.NodeName}
	for _, ip := range p.Status.PodIPs {
		one.addresses = append(one.addresses, netip.MustParseAddr(ip.IP))
	}
	for _, ip := range p.Status.HostIPs {
		one.hosts = append(one.hosts, netip.MustParseAddr(ip.IP))
	}
	for _, all := range [][]netip.Addr{one.addresses, one.hosts} {
		if len(all) != len(w.cluster.Families) {
			return one, fmt.Errorf("%s has %v, want one of each of %v", one, all, w.cluster.Setup.Families)
		}
		for _, f := range w.cluster.Families {
			if !f.Of(all).IsValid() {
				return one, fmt.Errorf("%s has %v, and none of %s", one, all, f.Name)
			}
		}
	}
	return one, nil
}

// enter opens the pods' namespaces. After a reboot, what the API server says of
// pods is old for a while: nobody has their addresses.
func (w *world) enter(pods []pod) (err error) {
	for i := range pods {
		if pods[i].netns, err = w.podNetns(pods[i].node, pods[i].addresses); err != nil {
			return err
		}
	}
	return nil
}

func isReady(p corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// podNetns is the namespace of a node that has exactly these addresses: the
// kernel's answer, not the runtime's or ours.
func (w *world) podNetns(node string, addresses []netip.Addr) (*sandbox.Netns, error) {
	for _, path := range w.hostFiles(node, "run/netns/cni-*") {
		ns, err := sandbox.OpenNetns(path)
		if err != nil {
			continue // its pod has just ended
		}
		if slices.Equal(sorted(addressesIn(ns)), sorted(addresses)) {
			w.Cleanup(func() { _ = ns.Close() })
			return ns, nil
		}
		_ = ns.Close()
	}
	return nil, fmt.Errorf("no network namespace on %s has the addresses %v", node, addresses)
}

func sorted(all []netip.Addr) []netip.Addr {
	return slices.SortedFunc(slices.Values(all), netip.Addr.Compare)
}

// other is the first pod that is on another node.
func other(pods []pod, than pod) pod {
	for _, p := range pods {
		if p.node != than.node {
			return p
		}
	}
	return than
}
