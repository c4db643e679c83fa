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
	_ = roomForStack()
	// One thing is done after the other: a second thread to run Go code on costs
	// more than it gives, most of all where many pods start at once. This does
	// nothing where entry did it already.
	runtime.GOMAXPROCS(1)
	os.Exit(plugin.Plugin{
		Getenv: os.Getenv, In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		About: "overlay-cni " + version + ": CNI plugin, see https://www.cni.dev/docs/spec/",
	}.Run())
}

// roomForStack has the stack grow to what an ADD needs while there is little on
// it: later the runtime would walk up all callers, with tables that are not in
// memory yet, to copy them.
//
//go:noinline
func roomForStack() byte {
	var room [8 << 10]byte
	return room[len(os.Args)%len(room)]
}
