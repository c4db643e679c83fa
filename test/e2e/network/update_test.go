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
	w.must(w.update(t.Context(), nextImage))
	for name, program := range w.programs() {
		if program == first[name] {
			t.Errorf("%s is %s after the update as before it", name, program)
		}
	}
	w.must(w.update(t.Context(), image))
	if again := w.programs(); !maps.Equal(first, again) {
		t.Errorf("after the way back there are %v, want %v", again, first)
	}
	s.unharmed()
}

// The daemons are removed, and after a while there are daemons again: what runs goes
// on without them.
func TestRemovalLosesNothing(t *testing.T) {
	w := newWorld(t)
	pods := append(w.onAllNodes("a"), w.onAllNodes("b")...)
	s := w.stream(pods)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		_, err := w.cluster.Kubectl(ctx, "apply", "-f", manifest())
		w.must(errors.Join(err, w.rolledOut(ctx)))
	})
	w.kubectl("-n", system, "delete", "--wait", "daemonset/"+daemonSet)
	w.eventually("the daemons to be gone", func(ctx context.Context) error {
		left, err := w.client.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + daemonSet})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d are left", len(left.Items))
		}
		return err
	})
	s.run()
	w.mesh(pods)
	w.kubectl("apply", "-f", manifest())
	w.must(w.rolledOut(t.Context()))
	s.unharmed()
}

// Pods come and go on all nodes while the daemons are replaced, and kubelet has to
// try nothing twice.
func TestPodsDuringUpdate(t *testing.T) {
	w := newWorld(t)
	pods, image := w.onAllNodes("a"), w.image()
	updated := make(chan error, 1)
	go func() { updated <- errors.Join(w.update(t.Context(), nextImage), w.update(t.Context(), image)) }()
	for {
		w.anew(w.namespace)
		w.mesh(w.ready("a", len(pods)))
		select {
		case err := <-updated:
			w.must(err)
			w.clean()
			w.unrefused()
			return
		default:
		}
	}
}

// unrefused: kubelet never reported that it could not make or remove the network
// of one of the test's pods. kubelet retries, so that otherwise pods only take
// longer.
func (w *world) unrefused() {
	w.Helper()
	events, err := w.client.CoreV1().Events(w.namespace).List(w.Context(), metav1.ListOptions{})
	w.must(err)
	for _, e := range events.Items {
		switch e.Reason {
		case "FailedCreatePodSandBox", "FailedKillPod", "NetworkNotReady":
			w.Errorf("%s on %s: %s, %d times: %s", e.InvolvedObject.Name, e.Source.Host, e.Reason, e.Count, e.Message)
		}
	}
}

// image returns the daemons' image, and restores it when the test ends.
func (w *world) image() string {
	w.Helper()
	set, err := w.client.AppsV1().DaemonSets(system).Get(w.Context(), daemonSet, metav1.GetOptions{})
	w.must(err)
	image := set.Spec.Template.Spec.Containers[0].Image
	w.Cleanup(func() { w.must(w.update(context.Background(), image)) })
	return image
}

// update gives the DaemonSet another image, and waits until all nodes have it.
func (w *world) update(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
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
