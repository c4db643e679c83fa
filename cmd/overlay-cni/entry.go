//go:build faststart && (amd64 || arm64)

package main

import (
	"runtime"

	_ "github.com/overlay-cni/overlay-cni/internal/stack"
)

// entry is where the kernel enters the program when it was built with the tag
// faststart and linked with -E main.entry, as make build does. (With FAST_START=0
// make build leaves both out, and the plugin starts as any Go program, in 2.2 ms
// instead of 1.4 ms.)
//
// Go's runtime prepares for a long life, on all CPUs, before Go code can ask it not
// to. So entry makes four settings first, and then jumps to Go's own entry:
//
//   - GOMAXPROCS=1, in front of the environment: the runtime starts no threads for
//     other CPUs and doesn't spread its memory over them. The setting is there
//     twice, because the stack is aligned to two words.
//   - RLIMIT_NOFILE=3, so that no file can be opened: the runtime doesn't read
//     /proc/self/cgroup and /proc/self/mountinfo for a limit on CPUs, nor the
//     size of huge pages. The package syscall raises the limit again before
//     main, to the hard limit less one. For child processes syscall would
//     restore the low limit, but the plugin starts none (hack/plugin-deps).
//   - PR_SET_TIMERSLACK=10 ms, inherited by later threads: otherwise the runtime's
//     monitor thread wakes up every 20 microseconds.
//   - *memProfileRate = 0: otherwise the first allocation is sampled for a profile
//     that nobody reads, by a walk through tables that are not in memory yet.
//
// docs/benchmarks.md says what each setting saves. Errors of system calls are
// ignored: the settings only save time.
func entry()

// memProfileRate gives entry the address of a variable of the runtime, which
// assembly can't name.
var memProfileRate = &runtime.MemProfileRate

// Only the linker and entry use these.
var _, _ = entry, memProfileRate
