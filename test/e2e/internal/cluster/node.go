package cluster

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/images"
)

//go:embed files
var files embed.FS

// StaticPods is the folder of a node from which kubelet starts pods that no API
// server knows of.
const StaticPods = "/etc/kubernetes/manifests"

// values are for the templates below files.
type values struct {
	Name, PKI, Cgroup, StaticPods, PauseImage string
	// Lists have commas.
	Any, DNS, Underlay, PodCIDR, Proxy string
}

func (c *Cluster) values(node string) values {
	return values{
		Name: node, PKI: c.pkiPath(""), Cgroup: filepath.Join(cgroupParent, node), StaticPods: StaticPods, PauseImage: images.Pause,
		Any: wildcard(c.Families).String(), PodCIDR: podCIDRs(c.Families), Proxy: c.Setup.Proxy,
		DNS:      joined(c.Families, func(f Family) netip.Addr { return f.DNS }),
		Underlay: joined(c.Families, func(f Family) netip.Prefix { return f.Underlay }),
	}
}

func render(name string, values any) (string, error) {
	t, err := template.ParseFS(files, "files/"+name)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	err = t.Execute(&text, values)
	return text.String(), err
}

// nodeNamespaces are what makes a machine of a node, beside those of processes
// and networks.
const nodeNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// boot starts a node: its namespaces and its cable, not yet its programs.
func (c *Cluster) boot(n Node) error {
	if err := makeCgroups(n.Name); err != nil {
		return err
	}
	if err := c.startFirst(n.Name, nodeNamespaces); err != nil {
		return err
	}
	return c.plug(n)
}

func (c *Cluster) startContainerd(ctx context.Context, n Node) error {
	text, err := render("containerd.toml", c.values(n.Name))
	if err != nil {
		return err
	}
	const path = "/etc/kubernetes/containerd.toml"
	if err := c.write(c.nodePath(n.Name, path), text); err != nil {
		return err
	}
	if err := c.start(n.Name, "containerd", "containerd", "--config", path); err != nil {
		return err
	}
	return Poll(ctx, "containerd, see "+c.LogFile(n.Name, "containerd"), func(ctx context.Context) error {
		_, err := c.run(ctx, n.Name, "ctr", "version")
		return err
	})
}

// Import puts an archive of images into a node's containerd.
func (c *Cluster) Import(ctx context.Context, node, archive string) error {
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer in.Close()
	cmd, err := c.Command(ctx, node, "ctr", "--namespace", "k8s.io", "images", "import", "-")
	if err != nil {
		return err
	}
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s in %s: %w: %s", archive, node, err, out)
	}
	return nil
}

// Kubelet is the name of its program, for Kill and Signal.
const Kubelet = "kubelet"

// kubeletHealth is where kubelet says that it runs.
const kubeletHealth = "127.0.0.1:10248"

// StartKubelet starts it in a node, and waits until it runs. It ends if it finds
// that containerd isn't ready, and is started again, as systemd would.
func (c *Cluster) StartKubelet(ctx context.Context, n Node) error {
	ended, err := c.launchKubelet(n)
	if err != nil {
		return err
	}
	return Poll(ctx, "kubelet, see "+c.LogFile(n.Name, Kubelet), func(ctx context.Context) error {
		select {
		case <-ended:
			again, err := c.launchKubelet(n)
			ended = again
			return errors.Join(errors.New("it has ended, and is started again"), err)
		default:
		}
		conn, err := c.dialFrom(ctx, n.Name, "tcp", kubeletHealth)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func (c *Cluster) launchKubelet(n Node) (<-chan struct{}, error) {
	text, err := render("kubelet.yaml", c.values(n.Name))
	if err != nil {
		return nil, err
	}
	const path = "/etc/kubernetes/kubelet.yaml"
	err = errors.Join(c.write(c.nodePath(n.Name, path), text), os.MkdirAll(c.nodePath(n.Name, StaticPods), 0o755))
	if err != nil {
		return nil, err
	}
	args := []string{
		c.program(Kubelet), "--config=" + path, "--kubeconfig=" + c.pkiPath(n.Name+".conf"),
		"--node-ip=" + joined(c.Families, func(f Family) netip.Addr { return f.Of(n.Addresses) }), "--hostname-override=" + n.Name,
	}
	if n.Name == Control {
		args = append(args, "--register-with-taints=node-role.kubernetes.io/control-plane=:NoSchedule")
	}
	return c.launch(n.Name, Kubelet, args...)
}

func (c *Cluster) startKubeProxy(n Node) error {
	text, err := render("kube-proxy.yaml", c.values(n.Name))
	if err != nil {
		return err
	}
	const path = "/etc/kubernetes/kube-proxy.yaml"
	if err := c.write(c.nodePath(n.Name, path), text); err != nil {
		return err
	}
	return c.start(n.Name, "kube-proxy", c.program("kube-proxy"), "--config="+path)
}

// program is one of those that were built for this.
func (c *Cluster) program(name string) string { return filepath.Join(c.Bin, name) }
