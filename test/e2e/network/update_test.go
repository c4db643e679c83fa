package network

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

const (
	// daemonSet is the product's name in the manifest, in the namespace system.
	daemonSet = "overlay-cni"
	system    = "kube-system"
	// nextImage has the same programs with another version, hence other ones.
	nextImage = "overlay-cni.io/overlay-cni:e2e-next"
)

// The daemons are replaced by those of another version, and these by those of
// before; the plugin, too.
func TestUpdateLosesNothing(t *testing.T) {
	w := newWorld(t)
	s := w.stream(append(w.onAllNodes("a"), w.onAllNodes("b")...))
	first, image := w.programs(), w.image()
	w.must(w.update(nextImage))
	for name, program := range w.programs() {
		if program == first[name] {
			t.Errorf("%s is %s after the update as before it", name, program)
		}
	}
	w.must(w.update(image))
	if again := w.programs(); !maps.Equal(first, again) {
		t.Errorf("after the way back there are %v, want %v", again, first)
	}
	s.unharmed()
}

// Pods come and go while the daemons are replaced.
func TestPodsDuringUpdate(t *testing.T) {
	w := newWorld(t)
	pods, image := w.onAllNodes("a"), w.image()
	updated := make(chan error, 1)
	go func() { updated <- errors.Join(w.update(nextImage), w.update(image)) }()
	for i := 0; ; i++ {
		node := w.cluster.Nodes[i%len(w.cluster.Nodes)].Name
		p := w.onNode(fmt.Sprintf("new-%d", i), node, nil)
		w.mesh([]pod{p, pods[0]})
		select {
		case err := <-updated:
			w.must(err)
			return
		default:
		}
	}
}

// image is that of the daemons.
func (w *world) image() string {
	w.Helper()
	set, err := w.client.AppsV1().DaemonSets(system).Get(w.Context(), daemonSet, metav1.GetOptions{})
	w.must(err)
	return set.Spec.Template.Spec.Containers[0].Image
}

// update gives the DaemonSet another image, and waits until all nodes have it.
func (w *world) update(image string) error {
	ctx, cancel := context.WithTimeout(w.Context(), patient)
	defer cancel()
	if _, err := w.cluster.Kubectl(ctx, "-n", system, "set", "image", "daemonset/"+daemonSet, "*="+image); err != nil {
		return err
	}
	return w.rolledOut(ctx)
}

func (w *world) rolledOut(ctx context.Context) error {
	return cluster.Poll(ctx, "the daemons", func(ctx context.Context) error {
		d, err := w.client.AppsV1().DaemonSets(system).Get(ctx, daemonSet, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := d.Status
		if s.ObservedGeneration < d.Generation || s.UpdatedNumberScheduled < s.DesiredNumberScheduled || s.NumberReady < s.DesiredNumberScheduled {
			return fmt.Errorf("%d of %d pods are new, %d ready", s.UpdatedNumberScheduled, s.DesiredNumberScheduled, s.NumberReady)
		}
		return nil
	})
}

// programs are the product's of each node: the image of the daemon that runs, and
// the plugin as it is installed.
func (w *world) programs() map[string]string {
	w.Helper()
	all := map[string]string{}
	pods, err := w.client.CoreV1().Pods(system).List(w.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + daemonSet})
	w.must(err)
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil {
			all["the daemon of "+p.Spec.NodeName] = p.Status.ContainerStatuses[0].ImageID
		}
	}
	for _, n := range w.cluster.Nodes {
		root, err := w.cluster.Root(n.Name)
		w.must(err)
		plugin, err := os.ReadFile(filepath.Join(root, "opt/cni/bin/overlay-cni"))
		w.must(err)
		all["the plugin of "+n.Name] = fmt.Sprintf("%x", sha256.Sum256(plugin))
	}
	return all
}
