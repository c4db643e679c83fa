package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// loopback is the CNI project's plugin for pods' lo. containerd wants it, and
// nodes have it from their distribution.
const loopback = "/usr/lib/cni/loopback"

// installCNI puts into a node what has to be there before any pod. The manifest
// brings all else.
func (c *Cluster) installCNI(n Node) error {
	if err := copyFile(c.nodePath(n.Name, "/opt/cni/bin/loopback"), loopback); err != nil {
		return fmt.Errorf("install the CNI plugin in %s: %w", n.Name, err)
	}
	return nil
}

func (c *Cluster) startCNI(ctx context.Context) error {
	_, err := c.Kubectl(ctx, "apply", "-f", c.Manifest)
	return err
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
