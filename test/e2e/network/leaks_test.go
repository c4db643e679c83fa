package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
	"github.com/overlay-cni/overlay-cni/test/e2e/internal/images"
)

// podsEnv is how many pods are made and deleted. The default is more than two
// nodes have addresses, so that a leaked address is missed.
const podsEnv = "E2E_PODS"

// atOnce is how many of them there are at one time: many more than there are cores,
// and few enough that a machine of two is not out of breath.
const atOnce = 40

func TestManyPodsLeaveNothing(t *testing.T) {
	w := newWorld(t)
	total, err := strconv.Atoi(env(podsEnv, "600"))
	w.must(err)
	for made := 0; made < total; made += atOnce {
		for i := range min(atOnce, total-made) {
			w.idle(fmt.Sprintf("pod-%d", made+i), fmt.Sprintf("worker%d", 1+i%2))
		}
		w.eventually("addresses, each its own", w.distinct)
		w.must(w.client.CoreV1().Pods(w.namespace).DeleteCollection(t.Context(), now, metav1.ListOptions{}))
		w.eventually("no pods", w.none)
	}
	w.clean()
}

// idle makes a pod that does nothing.
func (w *world) idle(name, node string) {
	w.Helper()
	grace := int64(0)
	_, err := w.client.CoreV1().Pods(w.namespace).Create(w.Context(), &corev1.Pod{
		ObjectMeta: w.meta(name),
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "idle", Image: images.Pause}},
		},
	}, metav1.CreateOptions{})
	w.must(err)
}

// distinct: all pods have an address of each family, and no two the same.
func (w *world) distinct(ctx context.Context) error {
	pods, err := w.client.CoreV1().Pods(w.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	owner := map[string]string{}
	for _, p := range pods.Items {
		if n := len(p.Status.PodIPs); p.Status.Phase != corev1.PodRunning || n != len(w.cluster.Families) {
			return fmt.Errorf("%s is %s and has %d addresses", p.Name, p.Status.Phase, n)
		}
		for _, ip := range p.Status.PodIPs {
			if first, ok := owner[ip.IP]; ok {
				w.Errorf("%s and %s have the address %s", first, p.Name, ip.IP)
			}
			owner[ip.IP] = p.Name
		}
	}
	return nil
}

func (w *world) none(ctx context.Context) error {
	pods, err := w.client.CoreV1().Pods(w.namespace).List(ctx, metav1.ListOptions{})
	if err == nil && len(pods.Items) > 0 {
		err = fmt.Errorf("%d pods", len(pods.Items))
	}
	return err
}

// clean waits until each node has the addresses, one record and one bridge port
// for each of its pods, and nothing else.
func (w *world) clean() {
	w.Helper()
	for _, n := range w.cluster.Nodes {
		w.eventually("nothing but pods on "+n.Name, func(ctx context.Context) error { return w.leaks(ctx, n.Name) })
	}
}

func (w *world) leaks(ctx context.Context, node string) error {
	pods, err := w.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return err
	}
	n, want := 0, map[netip.Addr]bool{}
	for _, p := range pods.Items {
		if p.Spec.HostNetwork || len(p.Status.PodIPs) == 0 {
			continue
		}
		n++
		for _, ip := range p.Status.PodIPs {
			want[netip.MustParseAddr(ip.IP)] = true
		}
	}
	got := w.reserved(node)
	for a := range want {
		if !got[a] {
			return fmt.Errorf("%s is a pod's, and not reserved", a)
		}
	}
	records := len(w.hostFiles(node, "run/overlay-cni/attachments/*.json"))
	ports, err := w.ports(node)
	if err != nil {
		return err
	}
	if len(got) != len(want) || records != n || ports != n {
		return fmt.Errorf("%d pods with %d addresses, but %d addresses reserved, %d records, %d ports", n, len(want), len(got), records, ports)
	}
	return nil
}

// reserved are the addresses that the product has given on a node.
func (w *world) reserved(node string) map[netip.Addr]bool {
	w.Helper()
	all := map[netip.Addr]bool{}
	for _, path := range w.hostFiles(node, "run/overlay-cni/addresses/*") {
		a, err := netip.ParseAddr(filepath.Base(path))
		w.must(err)
		all[a] = true
	}
	return all
}

// ports is how many a node's bridge has.
func (w *world) ports(node string) (n int, err error) {
	err = w.cluster.At(node, func(_ *sandbox.Netns, h *netlink.Handle) error {
		links, err := h.LinkList()
		for _, l := range links {
			if l.Type() == "veth" && l.Attrs().MasterIndex != 0 {
				n++
			}
		}
		return err
	})
	return n, err
}

// addressesOn are those of all pods of a node, by the kernel.
func (w *world) addressesOn(node string) map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	for _, path := range w.hostFiles(node, "run/netns/cni-*") {
		ns, err := sandbox.OpenNetns(path)
		if err != nil {
			continue // its pod has just ended
		}
		for _, a := range addressesIn(ns) {
			all[a] = true
		}
		_ = ns.Close()
	}
	return all
}

func addressesIn(ns *sandbox.Netns) []netip.Addr {
	h, err := ns.Handle()
	if err != nil {
		return nil
	}
	defer h.Close()
	listed, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil
	}
	var all []netip.Addr
	for _, l := range listed {
		if a, ok := netip.AddrFromSlice(l.IP); ok && a.Unmap().IsGlobalUnicast() {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// writePod puts a pod where kubelet finds it without the API server.
func (w *world) writePod(node string, p *corev1.Pod) string {
	w.Helper()
	text, err := json.Marshal(p)
	w.must(err)
	root, err := w.cluster.Root(node)
	w.must(err)
	path := filepath.Join(root, cluster.StaticPods, p.Name+".json")
	w.must(os.WriteFile(path, text, 0o644))
	w.Cleanup(func() { _ = os.Remove(path) }) // gone already, if all went well
	return path
}
