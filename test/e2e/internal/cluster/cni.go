package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// CNI is what makes the pod network.
type CNI struct {
	// Manifest is applied to the cluster, and all that is needed. Its images are
	// in Images.
	Manifest string
	Images   []string
	// Without a manifest the daemon runs as a process of each node.
	Process Process
}

// Process is the product without pods: what docs/install.md tells those to do who
// have no Kubernetes, but with the rights that a pod would have in the cluster.
type Process struct {
	Daemon   string // overlayd
	Plugin   string // overlay-cni
	Conflist string
	RBAC     string // for whom the manifest is not applied
}

// Daemon is the name of the product's daemon, for Kill and Signal.
const Daemon = "overlayd"

// loopback is the CNI project's plugin for pods' lo. containerd wants it, and
// nodes have it from their distribution.
const loopback = "/usr/lib/cni/loopback"

// installCNI puts into a node what has to be there before any pod.
func (c *Cluster) installCNI(n Node) error {
	copies := map[string]string{"/opt/cni/bin/loopback": loopback}
	if c.CNI.Manifest == "" {
		copies["/opt/cni/bin/overlay-cni"] = c.CNI.Process.Plugin
		copies["/opt/overlay-cni/overlayd"] = c.CNI.Process.Daemon
		copies["/etc/cni/net.d/10-overlay.conflist"] = c.CNI.Process.Conflist
	}
	for to, from := range copies {
		if err := copyFile(c.nodePath(n.Name, to), from); err != nil {
			return fmt.Errorf("install the CNI plugin in %s: %w", n.Name, err)
		}
	}
	return nil
}

func (c *Cluster) startCNI(ctx context.Context) error {
	if c.CNI.Manifest != "" {
		_, err := c.Kubectl(ctx, "apply", "-f", c.CNI.Manifest)
		return err
	}
	if _, err := c.Kubectl(ctx, "apply", "-f", c.CNI.Process.RBAC); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := c.StartDaemon(n.Name); err != nil {
			return err
		}
	}
	return nil
}

// StartDaemon starts the daemon of a node where it is no pod.
func (c *Cluster) StartDaemon(node string) error {
	return c.start(node, Daemon, "/opt/overlay-cni/overlayd", "run", "--registry-type=kube",
		"--registry-kubeconfig="+c.pkiPath(overlayd+".conf"), "--node-name="+node, "--health-address=127.0.0.1:9479")
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, info.Mode())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
