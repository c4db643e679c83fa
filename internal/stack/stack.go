// Package stack makes the main goroutine's stack as large as an ADD needs, once and
// early. Programs import it for this effect alone.
//
// A stack that grows later costs more: the runtime copies the frames of all
// callers, using tables that are not in memory yet, and allocates a pool of
// eight pages for each intermediate size.
//
// The package imports nothing, so Go initialises it early: Go initialises
// packages in the order of their import paths, each after its own imports (The
// Go Programming Language Specification, Program initialization).
package stack

var _ = grow(0)

//go:noinline
func grow(i int) byte {
	var room [8 << 10]byte
	return room[i]
}
