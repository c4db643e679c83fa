// Overlay-cni is the CNI plugin: a container runtime runs it once for each
// change of a container's network.
package main

import (
	"os"
	"runtime"

	_ "github.com/overlay-cni/overlay-cni/internal/stack"
	"github.com/overlay-cni/overlay-cni/pkg/plugin"
)

// version is set by the linker, see the Makefile.
var version = "devel"

func main() {
	// One thing is done after the other: a second thread to run Go code on costs
	// more than it gives, most of all where many pods start at once. This does
	// nothing where entry did it already.
	runtime.GOMAXPROCS(1)
	os.Exit(plugin.Plugin{
		Getenv: os.Getenv, In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		About: "overlay-cni " + version + ": CNI plugin, see https://www.cni.dev/docs/spec/",
	}.Run())
}
