package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/images"
)

// Up makes a cluster and waits until pods run in it. If it fails, everything stays
// until Down, so that you can read the logs.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	c, err := newCluster(o)
	if err != nil {
		return nil, err
	}
	if err := c.refuse(); err != nil {
		return nil, err
	}
	if err := c.writeSetup(); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"certificates", func(context.Context) error { return c.certificates() }},
		{"switch and nodes", c.startNodes},
		{"control plane", c.startControlPlane},
		{"containerd and images", func(ctx context.Context) error { return c.each(ctx, c.fill) }},
		{"kubelet and kube-proxy", func(ctx context.Context) error { return c.each(ctx, c.startNode) }},
		{"pod network", c.startCNI},
		{"DNS", c.startDNS},
		{"nodes and DNS ready", c.AwaitReady},
	} {
		start := time.Now()
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
		c.Log.Info(step.name, "took", time.Since(start).Round(100*time.Millisecond))
	}
	return c, nil
}

// Refuse returns an error if no cluster can be made here: there is one already, or
// something is missing.
func Refuse(o Options) error {
	c, err := newCluster(o)
	if err != nil {
		return err
	}
	return c.refuse()
}

func (c *Cluster) refuse() error {
	if os.Geteuid() != 0 {
		return errors.New("namespaces of nodes can be made by root only: run it with sudo")
	}
	for _, path := range []string{c.Dir, c.Bin} {
		if strings.HasPrefix(path+"/", "/run/") {
			return fmt.Errorf("%s can't be seen in nodes, which have a /run of their own: put it elsewhere", path)
		}
	}
	if _, err := os.Stat(c.path("pids")); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("a cluster is in %s already: take it down first: make e2e-down", c.Dir)
	}
	if err := noCgroups(); err != nil {
		return err
	}
	for _, name := range []string{Kubelet, APIServer, "kubectl"} {
		if _, err := os.Stat(c.program(name)); err != nil {
			return fmt.Errorf("%w; build it: make e2e-bin", err)
		}
	}
	return nil
}

func (c *Cluster) startNodes(context.Context) error {
	if err := c.startSwitch(); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := c.boot(n); err != nil {
			return err
		}
	}
	return nil
}

// each does something on all nodes at once.
func (c *Cluster) each(ctx context.Context, do func(context.Context, Node) error) error {
	results := make(chan error)
	for _, n := range c.Nodes {
		go func() { results <- do(ctx, n) }()
	}
	var errs []error
	for range c.Nodes {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// fill gives a node containerd, images and plugins.
func (c *Cluster) fill(ctx context.Context, n Node) error {
	if err := errors.Join(c.installCNI(n), c.startContainerd(ctx, n)); err != nil {
		return err
	}
	for _, archive := range c.Images {
		if err := c.Import(ctx, n.Name, archive); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startNode(ctx context.Context, n Node) error {
	if err := c.StartKubelet(ctx, n); err != nil {
		return err
	}
	client, err := c.Client()
	if err != nil {
		return err
	}
	// kube-proxy reads its node's address once.
	err = Poll(ctx, n.Name+" to register, see "+c.LogFile(n.Name, Kubelet), func(ctx context.Context) error {
		_, err := client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return c.startKubeProxy(n)
}

func (c *Cluster) startDNS(ctx context.Context) error {
	text, err := render("coredns.yaml", struct{ Image, First, DNS string }{images.CoreDNS, c.Families[0].DNS.String(), c.values("").DNS})
	if err != nil {
		return err
	}
	path := c.path("coredns.yaml")
	if err := c.write(path, text); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "apply", "-f", path)
	return err
}

// AwaitReady waits until all nodes take pods, and DNS answers.
func (c *Cluster) AwaitReady(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	return Poll(ctx, "the cluster", func(ctx context.Context) error {
		for _, n := range c.Nodes {
			if err := nodeReady(ctx, client, n.Name); err != nil {
				return err
			}
		}
		return dnsReady(ctx, client)
	})
}

func nodeReady(ctx context.Context, client kubernetes.Interface, name string) error {
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, t := range node.Spec.Taints {
		if strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			return fmt.Errorf("%s has the taint %s", name, t.Key)
		}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("%s is not ready", name)
}

func dnsReady(ctx context.Context, client kubernetes.Interface) error {
	d, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if want := *d.Spec.Replicas; d.Status.ReadyReplicas < want || d.Status.ObservedGeneration < d.Generation {
		return fmt.Errorf("%d of %d pods of CoreDNS are ready", d.Status.ReadyReplicas, want)
	}
	return nil
}

// Reboot ends all of a node's processes at once, and what is in its memory; and
// starts it again.
func (c *Cluster) Reboot(ctx context.Context, node string) error {
	n, err := c.Node(node)
	if err != nil {
		return err
	}
	p, err := c.first(node)
	if err != nil {
		return err
	}
	if err := p.kill(ctx); err != nil {
		return err
	}
	// kubelet takes cgroups of before for containers that run, and looks at each
	// of them for seconds.
	if err := removeCgroups(ctx, node); err != nil {
		return err
	}
	if err := c.boot(n); err != nil {
		return err
	}
	if err := c.startContainerd(ctx, n); err != nil {
		return err
	}
	return c.startNode(ctx, n)
}

// Down ends the cluster, and removes all of it but the logs. It succeeds where
// there is none.
func Down(ctx context.Context, o Options) error {
	c := &Cluster{Options: o}
	for _, name := range append(nodeNames(maxWorkers), Switch) {
		if p, err := c.first(name); err == nil {
			if err := p.kill(ctx); err != nil {
				return err
			}
		}
	}
	errs := []error{removeCgroups(ctx, "")}
	for _, dir := range []string{"pids", "nodes", "pki", "cache", "coredns.yaml", setupFile} {
		errs = append(errs, os.RemoveAll(c.path(dir)))
	}
	return errors.Join(errs...)
}
