// Render writes the manifest that people apply from the base for kustomize.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/overlay-cni/overlay-cni/test/e2e/manifests"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(out io.Writer) error {
	text, err := manifests.Rendered("../../conf/kubernetes")
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}
