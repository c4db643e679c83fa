package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/overlay-cni/overlay-cni/test/vm/internal/debian"
)

// Packages are the Debian packages that a tree needs.
var Packages = []string{
	"linux-image-amd64", "busybox-static", "ethtool", "iproute2", "kmod", "nftables", // in the machine
	"cpio", "xz-utils", // to make it
}

// KernelParts is what is needed of the kernel's package: the kernel, the
// modules of networking, and the drivers of the machine's devices. Patterns of
// tar; a folder stands for all that is in it.
var KernelParts = []string{
	"./boot/vmlinuz-*",
	"./lib/modules/*/modules.*",
	"./lib/modules/*/kernel/arch/x86/crypto",
	"./lib/modules/*/kernel/crypto",
	"./lib/modules/*/kernel/drivers/char/virtio_console.ko",
	"./lib/modules/*/kernel/drivers/net/*.ko",
	"./lib/modules/*/kernel/drivers/net/vxlan",
	"./lib/modules/*/kernel/drivers/virtio",
	"./lib/modules/*/kernel/lib",
	"./lib/modules/*/kernel/net/802",
	"./lib/modules/*/kernel/net/bridge",
	"./lib/modules/*/kernel/net/core",
	"./lib/modules/*/kernel/net/ipv4",
	"./lib/modules/*/kernel/net/ipv6",
	"./lib/modules/*/kernel/net/llc",
	"./lib/modules/*/kernel/net/netfilter",
	"./lib/modules/*/kernel/net/sched",
	"./lib/modules/*/kernel/net/sctp",
}

// tools are the programs that a machine gets from the tree. Their libraries are
// found.
var tools = []string{
	"bridge", "busybox", "ethtool", "ip", "kmod", "modprobe", "nft", "nstat",
}

// Paths in the tree.
const (
	vmlinux = "boot/vmlinux"
	initrd  = "boot/initrd"
	staged  = "staged" // what is not from packages
)

// Image is what a machine boots. Paths are those within the tree.
type Image struct {
	Kernel, Initrd string
	Release        string // of the kernel
}

// Build makes an image with programs of ours: from their paths in the machine to
// their files here. The tree's programs do most of the work, so it has to be
// furnished.
func Build(ctx context.Context, t *debian.Tree, programs map[string]string) (Image, error) {
	release, err := release(t)
	if err != nil {
		return Image{}, err
	}
	for _, step := range []func() error{
		func() error { return extractKernel(ctx, t, release) },
		func() error { return output(t.Command(ctx, "depmod", release), io.Discard) },
		func() error { return stage(t, programs) },
		func() error { return pack(ctx, t, release) },
	} {
		if err := step(); err != nil {
			return Image{}, fmt.Errorf("make the machines' image: %w", err)
		}
	}
	return Image{Kernel: "/" + vmlinux, Initrd: "/" + initrd, Release: release}, nil
}

func release(t *debian.Tree) (string, error) {
	found, err := filepath.Glob(t.Path("boot/vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("look for one kernel in %s: %v, %w", t.Dir, found, err)
	}
	return strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-"), nil
}

// stage puts together what no package has.
func stage(t *debian.Tree, programs map[string]string) error {
	if err := os.RemoveAll(t.Path(staged)); err != nil {
		return err
	}
	for path, file := range programs {
		if err := copyFile(filepath.Join(t.Path(staged), path), file); err != nil {
			return err
		}
	}
	shell := t.Path(staged + "/bin/sh")
	return errors.Join(os.MkdirAll(filepath.Dir(shell), 0o755), os.Symlink("busybox", shell))
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// pack writes the root file system: the kernel takes archives one behind the
// other.
func pack(ctx context.Context, t *debian.Tree, release string) error {
	names, err := names(ctx, t, release)
	if err != nil {
		return err
	}
	archive, err := os.Create(t.Path(initrd))
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := pipe(t.Command(ctx, "cpio", "--create", "--format=newc", "--owner=0:0"), names, archive); err != nil {
		return err
	}
	own := t.Command(ctx, "cpio", "--create", "--format=newc", "--owner=0:0")
	own.Dir = "/" + staged
	names, err = under(t, staged, "")
	if err != nil {
		return err
	}
	if err := pipe(own, names, archive); err != nil {
		return err
	}
	return archive.Close()
}

// names is all that a machine gets from packages.
func names(ctx context.Context, t *debian.Tree, release string) ([]string, error) {
	programs, err := programs(ctx, t)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, top := range append(programs, "lib/modules/"+release) {
		below, err := under(t, "", top)
		if err != nil {
			return nil, err
		}
		all = append(append(all, parents(top)...), below...)
	}
	return all, nil
}

// parents are the folders above a file, the highest first: cpio makes none.
func parents(name string) []string {
	dir := filepath.Dir(name)
	if dir == "." {
		return nil
	}
	return append(parents(dir), dir)
}

// under is a file, or a folder with all in it, as names below root in the tree.
func under(t *debian.Tree, root, top string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(t.Path(filepath.Join(root, top)), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(t.Path(root), path)
		names = append(names, name)
		return err
	})
	return names, err
}

// programs are the tools and the libraries that they are linked to.
func programs(ctx context.Context, t *debian.Tree) ([]string, error) {
	const loader = "/lib64/ld-linux-x86-64.so.2"
	found := map[string]bool{}
	for _, tool := range tools {
		path := t.Find(tool)
		found[path] = true
		var linked strings.Builder
		err := output(t.Command(ctx, loader, "--list", path), &linked)
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) { // a static program makes it fail
			return nil, err
		}
		for word := range strings.FieldsSeq(linked.String()) {
			if strings.HasPrefix(word, "/") {
				found[word] = true
			}
		}
	}
	return withTargets(t, found), nil
}

// withTargets are files as names in the tree, with those that symbolic links
// lead to.
func withTargets(t *debian.Tree, paths map[string]bool) []string {
	var names []string
	for path := range paths {
		names = append(names, strings.TrimPrefix(path, "/"))
		target, err := os.Readlink(t.Path(path))
		if err != nil {
			continue // no link
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		names = append(names, strings.TrimPrefix(target, "/"))
	}
	return names
}

// pipe gives a program lines to read and takes what it prints.
func pipe(cmd *exec.Cmd, lines []string, to io.Writer) error {
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	return output(cmd, to)
}

func output(cmd *exec.Cmd, to io.Writer) error {
	var complaints strings.Builder
	cmd.Stdout, cmd.Stderr = to, &complaints
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(complaints.String()))
	}
	return nil
}
