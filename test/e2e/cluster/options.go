package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
	manifest string
	images   []string
	setup    cluster.Setup
	modes    []string
	timeout  time.Duration
	suite    suite
	procs    int
}

func parse(args []string) (options, error) {
	var o options
	f := pflag.NewFlagSet("cluster", pflag.ContinueOnError)
	f.SortFlags = false
	f.SetInterspersed(false) // what follows the command may have flags of its own
	f.StringVar(&o.dir, "dir", "/tmp/overlay-e2e", "folder for all of the cluster's files")
	f.StringVar(&o.bin, "bin", "bin", "folder of what was built; Kubernetes is in e2e below it")
	f.StringVar(&o.manifest, "manifest", "conf/kubernetes/overlay-cni.yaml", "file that installs the product")
	f.StringArrayVar(&o.images, "image", nil, "archive with an image of the manifest, for all nodes")
	f.StringSliceVar(&o.setup.Families, "families", []string{"ipv4"}, "IP versions of nodes, pods and Services, the first one preferred: ipv4, ipv6")
	f.StringVar(&o.setup.Proxy, "proxy", "nftables", "mode of kube-proxy: nftables or iptables")
	f.StringSliceVar(&o.modes, "modes", nil, "which clusters to test: "+strings.Join(modeNames(), ", ")+"; all but wide by default")
	f.IntVar(&o.setup.Workers, "workers", 0, "nodes beside the control plane (2)")
	f.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long up, down or reboot may take")
	f.StringVar(&o.suite.focus, "focus", conformanceTests.focus, "which of Kubernetes' tests to run")
	f.StringVar(&o.suite.skip, "skip", conformanceTests.skip, "which of them not to run")
	f.IntVar(&o.procs, "procs", 4, "how many tests run at once")
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
	for _, path := range []*string{&o.dir, &o.bin, &o.manifest} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return o, err
		}
		*path = absolute
	}
	return o, nil
}

// e2eBin is where Kubernetes and its tests are.
func (o options) e2eBin(name string) string { return filepath.Join(o.bin, "e2e", name) }

func (o options) cluster() cluster.Options {
	return cluster.Options{
		Dir: o.dir, Bin: o.e2eBin(""), Images: append([]string{o.e2eBin("images.tar")}, o.images...), Manifest: o.manifest, Setup: o.setup,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
}
