// Image packs overlayd and overlay-cni into a container image for several
// architectures, as one OCI archive: no container engine, no registry and no
// root are needed. The same programs give the same bytes.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	var o options
	var arches, file string
	var created int64
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	f.StringVar(&o.dir, "dir", "", "folder with one folder of programs for each architecture")
	f.StringVar(&arches, "arch", "amd64,arm64", "names of these folders, as GOARCH has them")
	f.StringVar(&o.license, "license", "", "file with the licence, which goes along")
	f.StringVar(&o.name, "name", "", "the image's full name and tag")
	f.StringVar(&o.version, "version", "", "what the programs call their version")
	f.StringVar(&o.revision, "revision", "", "commit that they were built from")
	f.Int64Var(&created, "created", 0, "seconds since 1970 that all files and the image have as their time")
	f.StringVar(&file, "out", "", "archive to write")
	if err := f.Parse(args); err != nil {
		return err
	}
	o.arches, o.created = strings.Split(arches, ","), time.Unix(created, 0).UTC()
	index, err := o.build()
	if err != nil {
		return err
	}
	if err := o.save(index, file); err != nil {
		return err
	}
	return summarize(index, o.name, file, out)
}
