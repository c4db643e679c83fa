package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/overlay-cni/overlay-cni/test/e2e/internal/cluster"
)

// options are the command line.
type options struct {
	command  string
	args     []string
	dir      string // the cluster's folder
	bin      string // what make build made; Kubernetes is in e2e below it
	conf     string // the product's configuration files
	manifest string
	images   []string
	timeout  time.Duration
	focus    string
	procs    int
}

func parse(args []string) (options, error) {
	var o options
	f := pflag.NewFlagSet("cluster", pflag.ContinueOnError)
	f.SortFlags = false
	f.SetInterspersed(false) // what follows the command may have flags of its own
	f.StringVar(&o.dir, "dir", "/tmp/overlay-e2e", "folder for all of the cluster's files")
	f.StringVar(&o.bin, "bin", "bin", "folder of overlayd and overlay-cni, and of Kubernetes in e2e below it")
	f.StringVar(&o.conf, "conf", "conf", "folder of the product's configuration files")
	f.StringVar(&o.manifest, "manifest", "", "file that installs the product; without it, overlayd runs outside of pods")
	f.StringArrayVar(&o.images, "image", nil, "archive with an image of the manifest, for all nodes")
	f.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long up, down or reboot may take")
	f.StringVar(&o.focus, "focus", `\[sig-network\].*\[Conformance\]`, "which of Kubernetes' tests to run")
	f.IntVar(&o.procs, "procs", 4, "how many of Kubernetes' tests run at once")
	f.Usage = func() {
		fmt.Fprintf(os.Stderr, "Usage: cluster [FLAGS] COMMAND [ARGUMENTS]\n\n%s\n%s", describe(), f.FlagUsages())
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() == 0 {
		f.Usage()
		return o, errors.New("a command is missing")
	}
	o.command, o.args = f.Arg(0), f.Args()[1:]
	var err error
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return o, err
	}
	return o, nil
}

// e2eBin is where Kubernetes and its tests are.
func (o options) e2eBin(name string) string { return filepath.Join(o.bin, "e2e", name) }

func (o options) cluster() cluster.Options {
	return cluster.Options{
		Dir: o.dir, Bin: o.e2eBin(""), Images: []string{o.e2eBin("images.tar")},
		CNI: cluster.CNI{
			Manifest: o.manifest, Images: o.images,
			Process: cluster.Process{
				Daemon: filepath.Join(o.bin, "overlayd"), Plugin: filepath.Join(o.bin, "overlay-cni"),
				Conflist: filepath.Join(o.conf, "10-overlay.conflist"), RBAC: filepath.Join(o.conf, "kubernetes", "rbac.yaml"),
			},
		},
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
}
