//go:build amd64 || arm64

package main

import "runtime"

// entry is where the kernel enters the program, if it was linked with
// -E main.entry as make build does. What Go's runtime does in its first
// microseconds is meant for programs that run for long, and is a third of an
// ADD; when Go code can first ask it not to, it is done. So four things are said
// before, and then entry goes on to Go's own entry:
//
//   - GOMAXPROCS=1, in front of the environment, twice since the stack is aligned
//     to two words: no threads for other CPUs, and no memory spread over them.
//   - No file may be opened but standard input, output and error
//     (RLIMIT_NOFILE): so the runtime doesn't read /proc/self/cgroup and
//     /proc/self/mountinfo for a limit on CPUs (it has one CPU anyhow), nor the
//     size of huge pages. The package syscall raises the limit before main, to
//     the hard one less one. It would pass the low one on to children, which the
//     plugin has none of (hack/plugin-deps).
//   - Timers may be 10 ms late (PR_SET_TIMERSLACK), in threads to come too: the
//     runtime's watching thread looks every 20 microseconds else.
//   - *memProfileRate = 0: the first allocation would be sampled for a profile
//     that nobody asks for, with a walk through tables that are not in memory yet.
//
// docs/benchmarks.md says what each of them saves. What the kernel refuses is
// left as it is: all of this is about time alone.
func entry()

// memProfileRate is for entry, which can't name a variable of the runtime.
var memProfileRate = &runtime.MemProfileRate

// The linker and entry alone use them.
var _, _ = entry, memProfileRate
