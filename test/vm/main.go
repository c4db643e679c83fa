package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/debian"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/guest"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/image"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/qemu"
)

func main() {
	if os.Args[0] == guest.InitPath && os.Getpid() == 1 {
		fmt.Fprintln(os.Stderr, "guest:", guest.Main())
		os.Exit(1) // which panics the kernel, and that ends the machine
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	var inner *sandbox.ExitError
	err := test(args, stdout, stderr)
	switch {
	case err == nil || errors.Is(err, pflag.ErrHelp):
		return 0
	case errors.As(err, &inner): // this program again, in a sandbox
		return inner.Code
	}
	fmt.Fprintln(stderr, "vm:", err)
	return 1
}

// options are the command line.
type options struct {
	bin string // where overlayd and overlay-cni are
	dir string // what is kept from run to run, and what a run leaves
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	f := pflag.NewFlagSet("vm", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.bin, "bin", "bin", "folder of overlayd and overlay-cni")
	f.StringVar(&o.dir, "dir", "bin/vm", "folder for Debian's packages, which are kept, and for what the machines leave")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q: all settings are flags, see --help", f.Arg(0))
	}
	for _, path := range []*string{&o.bin, &o.dir} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return o, err
		}
		*path = absolute
	}
	return o, nil
}

func test(args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	table := newTable(stdout)
	// Before the sandbox, which has no way out to Debian.
	tree, err := debian.Prepare(ctx, o.dir, append(image.Packages, qemu.Package), image.KernelParts)
	if err != nil {
		return err
	}
	return sandbox.Run(func() error {
		c, err := newCluster(ctx, tree, o)
		if err != nil {
			return err
		}
		return (&suite{ctx: ctx, table: table, cluster: c}).run()
	})
}

// newCluster makes all but the machines themselves.
func newCluster(ctx context.Context, tree *debian.Tree, o options) (*cluster, error) {
	if err := errors.Join(tree.Lock(), tree.Furnish()); err != nil {
		return nil, err
	}
	wire, err := newWire(o.dir)
	if err != nil {
		return nil, err
	}
	image, err := image.Build(ctx, tree, map[string]string{
		guest.InitPath: "/proc/self/exe",
		daemonPath:     filepath.Join(o.bin, "overlayd"),
		pluginPath:     filepath.Join(o.bin, "overlay-cni"),
	})
	if err != nil {
		return nil, err
	}
	world := place{guest.Here(), "the world", wire.Name(), outside}
	if err := world.serve(ctx); err != nil {
		return nil, err
	}
	left := filepath.Join(o.dir, "left")
	if err := errors.Join(os.RemoveAll(left), os.MkdirAll(left, 0o755)); err != nil {
		return nil, err
	}
	return &cluster{tree: tree, image: image, wire: wire, world: world, dir: left}, nil
}
