package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab"
)

// source is a registry as the operator sees it.
type source interface {
	// add makes nodes known, and returns when the registry has all of them.
	add(ctx context.Context, nodes []node) error
	// remove is the opposite.
	remove(ctx context.Context, nodes []node) error
	// move gives a known node another address. It returns when the write began:
	// preparing it isn't a part of it.
	move(ctx context.Context, n node) (time.Time, error)
	// flags are those of overlayd.
	flags() []string
}

// fileSource is the nodes file. It is replaced as a whole.
type fileSource struct {
	path  string
	nodes []node
	index map[string]int // in nodes, by name
}

func newFileSource(dir string) *fileSource {
	return &fileSource{path: filepath.Join(dir, "nodes.yaml"), index: map[string]int{}}
}

func (f *fileSource) flags() []string {
	return []string{"--registry-type", fileRegistry, "--registry-file", f.path}
}

func (f *fileSource) add(_ context.Context, nodes []node) error {
	for _, n := range nodes {
		f.index[n.name] = len(f.nodes)
		f.nodes = append(f.nodes, n)
	}
	_, err := f.write()
	return err
}

func (f *fileSource) remove(_ context.Context, nodes []node) error {
	gone := map[string]bool{}
	for _, n := range nodes {
		gone[n.name] = true
	}
	old := f.nodes
	f.nodes, f.index = nil, map[string]int{}
	for _, n := range old {
		if !gone[n.name] {
			f.index[n.name] = len(f.nodes)
			f.nodes = append(f.nodes, n)
		}
	}
	_, err := f.write()
	return err
}

func (f *fileSource) move(_ context.Context, n node) (time.Time, error) {
	f.nodes[f.index[n.name]] = n
	return f.write()
}

// write returns when the new file began to be the file.
func (f *fileSource) write() (time.Time, error) {
	var text strings.Builder
	text.WriteString("nodes:\n")
	for _, n := range f.nodes {
		fmt.Fprintf(&text, "- name: %s\n  addresses: [%s]\n  podSubnets: [%s]\n", n.name, n.address, n.subnet)
	}
	if err := os.WriteFile(f.path+".new", []byte(text.String()), 0o644); err != nil {
		return time.Time{}, fmt.Errorf("write the nodes file: %w", err)
	}
	began := time.Now()
	return began, os.Rename(f.path+".new", f.path)
}

// program is something that is measured.
type program struct {
	name    string
	command func(h *lab.Host) *exec.Cmd
}

// overlayd is the program that this is about.
func overlayd(o options, s source) program {
	return program{"overlayd", func(h *lab.Host) *exec.Cmd {
		args := append([]string{"run", "--node-name", h.Name, "--run-dir", h.RunDir()}, s.flags()...)
		return exec.Command(filepath.Join(o.dir, "overlayd"), args...)
	}}
}

// another is a program that the command line names.
func another(definition, kubeconfig string) program {
	name, command, _ := strings.Cut(definition, "=")
	return program{name, func(h *lab.Host) *exec.Cmd {
		cmd := exec.Command("/bin/sh", "-c", "exec "+command)
		cmd.Env = append(os.Environ(), "NODE_NAME="+h.Name, "KUBECONFIG="+kubeconfig, "RUN_DIR="+h.RunDir(),
			"POD_NETWORK="+podNetwork.String())
		return cmd
	}}
}
