//go:build amd64 || arm64

package visit

const supported = true

// run does n system calls that are next to each other in memory.
func run(calls *call, n uintptr)
