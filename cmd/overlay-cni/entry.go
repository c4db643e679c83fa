//go:build amd64 || arm64

package main

// entry is where the kernel enters the program, if it was linked with
// -E main.entry as make build does. It puts GOMAXPROCS=1 in front of the
// environment, twice since the stack is aligned to two words, and goes on to Go's
// own entry: when Go code can first change that setting, the runtime has started
// threads for the other CPUs and spread its memory over them, and takes both
// back. That is a tenth of an ADD.
func entry()

// The linker alone uses it.
var _ = entry
