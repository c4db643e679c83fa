// Overlay-cni is the CNI plugin: a container runtime runs it once for each
// change of a container's network.
package main

import (
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/overlay-cni/overlay-cni/pkg/plugin"
)

// version is set by the linker, see the Makefile.
var version = "devel"

// memoryLimit is where the garbage collector starts. A run allocates far less,
// so it never does, and no pod waits for it.
const memoryLimit = 12 << 20

func main() { os.Exit(run(os.Stdout)) }

func run(out io.Writer) int {
	// One thing is done after the other: a second thread to run Go code on costs
	// more than it gives, most of all where many pods start at once.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	versions := cniversion.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")
	about := "overlay-cni " + version + ": CNI plugin, see https://www.cni.dev/docs/spec/"
	if err := skel.PluginMainFuncsWithError(plugin.Plugin{Out: out}.Funcs(), versions, about); err != nil {
		_ = err.Print()
		return 1
	}
	return 0
}
