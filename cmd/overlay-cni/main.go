// Overlay-cni is the CNI plugin: a container runtime runs it once for each
// change of a container's network.
package main

import (
	"os"
	"runtime"

	"github.com/overlay-cni/overlay-cni/pkg/plugin"
)

// version is set by the linker, see the Makefile.
var version = "devel"

func main() {
	// The plugin does one thing after the other: a second thread for Go code costs
	// more than it gives, most of all when many pods start at once. With the fast
	// start (entry.go) the setting is made already.
	runtime.GOMAXPROCS(1)
	os.Exit(plugin.Plugin{
		Getenv: os.Getenv, In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		About: "overlay-cni " + version + ": CNI plugin, see https://www.cni.dev/docs/spec/",
	}.Run())
}
