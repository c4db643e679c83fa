package runtimes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// private are directories that runtimes write to: the machine's files are
// seen in them, and changes stay in the sandbox.
func private() []string { return []string{"/etc", "/var"} }

// empty are directories of which nothing of the machine's must be seen, or
// which can't be on an overlay, as the runtimes make overlays in them.
func empty() []string {
	return []string{"/opt", "/etc/cni", "/var/lib/cni", "/var/lib/containerd", "/var/lib/containers", "/var/tmp"}
}

// furnish makes the sandbox's file systems.
func furnish() error {
	const changes = "/run/changes"
	for _, dir := range private() {
		upper, work := filepath.Join(changes, dir, "upper"), filepath.Join(changes, dir, "work")
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return err
		}
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
		if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
			return fmt.Errorf("mount an overlay on %s: %w", dir, err)
		}
	}
	for _, dir := range empty() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
		}
	}
	return errors.Join(shareNetns(), mountCgroups())
}

// shareNetns makes the directory of named network namespaces what the first
// runtime would make it: if one did that later, it would cover the names that
// are there by then.
func shareNetns() error {
	const dir = "/run/netns"
	err := errors.Join(
		os.MkdirAll(dir, 0o755),
		unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""),
		unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, ""),
	)
	if err != nil {
		return fmt.Errorf("share the mounts in %s: %w", dir, err)
	}
	return nil
}

// cgroups are the cgroups of one name, one in each of the machine's
// hierarchies.
type cgroups struct {
	dirs []string
	// home are the cgroups that this process came from.
	home []string
}

// hierarchy is a mounted cgroup file system.
type hierarchy struct {
	dir, kind, options string
}

// hierarchies reads them from /proc/mounts, and with them the options that
// they can be mounted with again.
func hierarchies() ([]hierarchy, error) {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return nil, err
	}
	generic := []string{"rw", "ro", "nosuid", "nodev", "noexec", "relatime", "noatime", "xattr", "nsdelegate", "memory_recursiveprot"}
	var found []hierarchy
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[2] != "cgroup" && f[2] != "cgroup2" || !strings.HasPrefix(f[1], "/sys/fs/cgroup") {
			continue
		}
		options := slices.DeleteFunc(strings.Split(f[3], ","), func(o string) bool {
			return slices.Contains(generic, o) || strings.HasPrefix(o, "release_agent=")
		})
		found = append(found, hierarchy{dir: f[1], kind: f[2], options: strings.Join(options, ",")})
	}
	return found, nil
}

// joinCgroups makes a cgroup of this name in every hierarchy and moves this
// process there.
func joinCgroups(name string) (*cgroups, error) {
	all, err := hierarchies()
	c := &cgroups{}
	if err != nil {
		return c, err
	}
	for _, h := range all {
		dir := filepath.Join(h.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return c, err
		}
		c.dirs = append(c.dirs, dir)
		c.home = append(c.home, filepath.Join(h.dir, currentCgroup(h)))
		// A cpuset takes no processes before it has these.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if value, err := os.ReadFile(filepath.Join(h.dir, f)); err == nil && h.kind == "cgroup" {
				_ = os.WriteFile(filepath.Join(dir, f), value, 0)
			}
		}
		if err := enter(dir); err != nil {
			return c, err
		}
	}
	return c, nil
}

// currentCgroup is this process's one in a hierarchy, as a path from its root.
func currentCgroup(h hierarchy) string {
	data, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && f[1] == h.options {
			return f[2]
		}
	}
	return "/"
}

func enter(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("join cgroup %s: %w", dir, err)
	}
	return nil
}

// leave takes this process back and removes the cgroups, which are empty then:
// the sandbox's processes have ended before the sandbox's Run returned.
func (c *cgroups) leave() error {
	var errs []error
	for i, dir := range c.dirs {
		errs = append(errs, enter(c.home[i]), removeCgroups(dir))
	}
	return errors.Join(errs...)
}

// removeCgroups removes a cgroup with those below it, whose files can't be.
func removeCgroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeCgroups(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, unix.Rmdir(dir))
}

// mountCgroups mounts the hierarchies where a new /sys has hidden them. In
// the new cgroup namespace their roots are the test's own cgroups.
func mountCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	if all[0].dir != "/sys/fs/cgroup" {
		if err := unix.Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount a tmpfs for cgroups: %w", err)
		}
	}
	for _, h := range all {
		if err := os.MkdirAll(h.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(h.kind, h.dir, h.kind, 0, h.options); err != nil {
			return fmt.Errorf("mount cgroups on %s: %w", h.dir, err)
		}
	}
	return nil
}
