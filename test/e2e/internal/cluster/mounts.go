package cluster

import (
	"crypto/md5" //nolint:gosec // a machine's ID has the length of this sum
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one of a node's, in the order in which they are made.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
	// optional: kernels may lack this file system.
	optional bool
}

// These are where the cluster's folder and its programs' are kept while others
// are mounted over them.
const (
	state    = "/run/state"
	programs = "/run/programs"
)

// nodeMounts are a node's view of the machine: programs and libraries are the
// machine's; /etc and /var/lib too, with the node's own changes on top; /opt,
// /tmp and what Kubernetes and containerd keep are the node's; /run is empty at
// each start, as after a boot. The cluster's folder and its programs' are where
// they are outside, wherever that is.
func nodeMounts(name, dir, bin string) []mount {
	node := filepath.Join(state, "nodes", name)
	all := []mount{
		{target: "/", flags: unix.MS_REC | unix.MS_PRIVATE},
		{source: "proc", target: "/proc", kind: "proc"},
		{source: "tmpfs", target: "/run", kind: "tmpfs", data: "mode=755"},
		{source: dir, target: state, flags: unix.MS_BIND},
		{source: bin, target: programs, flags: unix.MS_BIND},
		// The same cgroups below a /sys of this network namespace.
		{source: "/sys/fs/cgroup", target: "/run/cgroup", flags: unix.MS_BIND | unix.MS_REC},
		{source: "sysfs", target: "/sys", kind: "sysfs"},
		{source: "/run/cgroup", target: "/sys/fs/cgroup", flags: unix.MS_BIND | unix.MS_REC},
		{source: "bpf", target: "/sys/fs/bpf", kind: "bpf", optional: true},
		{source: "tracefs", target: "/sys/kernel/tracing", kind: "tracefs", optional: true},
	}
	for _, path := range []string{"/etc", "/var/lib"} {
		over := filepath.Join(node, "overlay", path)
		all = append(all, mount{
			source: "overlay", target: path, kind: "overlay",
			data: fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", path, over, over),
		})
	}
	// containerd can't put overlays on an overlay.
	for _, path := range []string{
		"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/lib/etcd", "/etc/cni", "/etc/kubernetes", "/opt", "/var/log", "/tmp",
	} {
		all = append(all, mount{source: filepath.Join(node, path), target: path, flags: unix.MS_BIND})
	}
	all = append(all,
		mount{source: state, target: dir, flags: unix.MS_BIND},
		mount{source: programs, target: bin, flags: unix.MS_BIND})
	for name := range kubeletSysctls {
		path := filepath.Join("/proc/sys", name)
		all = append(all, mount{source: sysctlFile(name), target: path, flags: unix.MS_BIND, optional: true})
	}
	return all
}

// kubeletSysctls are settings of the whole machine that kubelet writes. Files of
// the node's own are put over them, in which it finds what it wants.
var kubeletSysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

func sysctlFile(name string) string {
	return filepath.Join("/run/sysctl", strings.ReplaceAll(name, "/", "."))
}

func mountAll(all []mount) error {
	for _, m := range all {
		if err := m.prepare(); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
		err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
		if err != nil && !m.optional {
			return fmt.Errorf("mount %s on %s (%s): %w", m.source, m.target, m.data, err)
		}
	}
	return errors.Join(unix.Unmount("/run/cgroup", unix.MNT_DETACH), os.Chmod("/tmp", 0o1777))
}

// prepare makes the folders that a mount needs.
func (m mount) prepare() error {
	switch {
	case m.kind == "overlay":
		for _, option := range strings.Split(m.data, ",")[1:] {
			_, dir, _ := strings.Cut(option, "=")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		return nil
	case strings.HasPrefix(m.target, "/proc/sys/"):
		name := strings.TrimPrefix(m.target, "/proc/sys/")
		if err := os.MkdirAll(filepath.Dir(m.source), 0o755); err != nil {
			return err
		}
		return os.WriteFile(m.source, []byte(kubeletSysctls[name]+"\n"), 0o644)
	case m.flags&unix.MS_BIND != 0:
		return errors.Join(os.MkdirAll(m.source, 0o755), os.MkdirAll(m.target, 0o755))
	}
	return nil
}

// nodeFiles are what is different on each machine.
func nodeFiles(name, dir string, all []Node) map[string]string {
	hosts := "127.0.0.1 localhost\n::1 localhost\n"
	for _, n := range all {
		for _, a := range n.Addresses {
			hosts += fmt.Sprintf("%s %s\n", a, n.Name)
		}
	}
	return map[string]string{
		"/etc/hostname":   name + "\n",
		"/etc/hosts":      hosts,
		"/etc/machine-id": fmt.Sprintf("%x\n", md5.Sum([]byte(name+dir))), //nolint:gosec // see the import
		// Nobody answers there: a cluster has no outside.
		"/etc/resolv.conf": "nameserver 127.0.0.53\n",

		"/run/lock/.keep":      "",
		"/var/log/pods/.keep":  "",
		"/opt/cni/bin/.keep":   "",
		"/etc/cni/net.d/.keep": "",
	}
}
