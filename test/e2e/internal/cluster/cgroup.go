package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupParent is above all nodes' cgroups, in every hierarchy.
const cgroupParent = "/overlay-e2e"

func setSysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
}

// hierarchies are where cgroups are: one of version 2, several of version 1.
func hierarchies() ([]string, error) {
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if strings.HasPrefix(f[2], "cgroup") && strings.HasPrefix(f[1], "/sys/fs/cgroup") {
			all = append(all, f[1])
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// noCgroups: a cluster in another folder has the same ones.
func noCgroups() error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		parent := filepath.Join(root, cgroupParent)
		if _, err := os.Stat(parent); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("another cluster has the cgroup %s: take it down first: make e2e-down", parent)
		}
	}
	return nil
}

// makeCgroups makes those that kubelet takes for the root of a node's pods.
func makeCgroups(node string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		parent := filepath.Join(root, cgroupParent)
		for _, dir := range []string{parent, filepath.Join(parent, node)} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := fillCpuset(dir); err != nil {
				return fmt.Errorf("make cgroup %s: %w", dir, err)
			}
		}
	}
	return nil
}

// fillCpuset allows what the parent allows: a new cpuset of version 1 allows no
// processor at all.
func fillCpuset(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || len(bytes.TrimSpace(own)) > 0 {
			continue
		}
		all, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the root of version 2 has none, and needs none
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), all, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroups removes a node's, or with no name those of all nodes. They are
// empty soon after the nodes have ended.
func removeCgroups(ctx context.Context, node string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		parent := filepath.Join(root, cgroupParent, node)
		if err := Poll(ctx, "cgroups to be empty", func(context.Context) error { return removeTree(parent) }); err != nil {
			return err
		}
	}
	return nil
}

// removeTree removes folders, the deepest first; files of cgroups go with them.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}
