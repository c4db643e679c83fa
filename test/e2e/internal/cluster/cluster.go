package cluster

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Options are what a cluster is made of.
type Options struct {
	// Dir holds all of the cluster's files. It must not be on an overlay file
	// system, on which containerd can't put its own.
	Dir string
	// Bin holds the programs that "make e2e-bin" and "make e2e-images" build.
	Bin string
	// Images are archives that every node gets.
	Images []string
	Setup  Setup
	// Manifest is applied to the cluster, and makes the pod network. Its images are
	// among Images.
	Manifest string
	Log      *slog.Logger
}

// Cluster is one that runs, or is being made.
type Cluster struct {
	Options
	Families []Family
	Nodes    []Node
}

func newCluster(o Options) (*Cluster, error) {
	for _, path := range []*string{&o.Dir, &o.Bin} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", *path, err)
		}
		*path = absolute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	families, err := o.Setup.families()
	if err != nil {
		return nil, err
	}
	nodes, err := o.Setup.nodes(families)
	if err != nil {
		return nil, err
	}
	return &Cluster{Options: o, Families: families, Nodes: nodes}, nil
}

// Open is a cluster that Up has made, maybe another process's. Its setup is what
// was written then, not that of the options.
func Open(o Options) (*Cluster, error) {
	setup, err := readSetup(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("no cluster is in %s: %w; make one: make e2e-up", o.Dir, err)
	}
	o.Setup = setup
	c, err := newCluster(o)
	if err != nil {
		return nil, err
	}
	if _, err := c.first(Switch); err != nil {
		return nil, fmt.Errorf("no cluster runs in %s: %w; make one: make e2e-up", c.Dir, err)
	}
	return c, nil
}

// Node is the one of that name.
func (c *Cluster) Node(name string) (Node, error) {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("no node %q in the cluster: there are %v", name, c.Nodes)
}

// Netns opens the network namespace of a node, or of the switch, where clients
// are. It is the caller's to close.
func (c *Cluster) Netns(of string) (*sandbox.Netns, error) {
	p, err := c.first(of)
	if err != nil {
		return nil, err
	}
	return sandbox.OpenNetns(p.path("ns/net"))
}

// path is a file in the cluster's folder.
func (c *Cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.Dir}, parts...)...)
}

// nodePath is a file of a node, as seen from outside: its disk.
func (c *Cluster) nodePath(node string, parts ...string) string {
	return c.path(append([]string{"nodes", node}, parts...)...)
}

// LogFile is the file that a program of a node writes to.
func (c *Cluster) LogFile(node, program string) string { return c.path("log", node, program+".log") }

func (c *Cluster) write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// Root is where a node's files are, as its own programs see them.
func (c *Cluster) Root(node string) (string, error) {
	p, err := c.first(node)
	if err != nil {
		return "", err
	}
	return p.path("root"), nil
}
