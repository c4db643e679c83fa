// Package stack makes the main goroutine's stack as large as an ADD needs, once and
// early. Programs import it for this effect alone.
//
// A stack that grows later costs more: the runtime copies the frames of all callers,
// with tables that are not in memory yet, and each smaller size on the way takes a
// pool of eight pages.
//
// The package imports nothing, so Go initialises it among the first: packages are
// initialised in the order of their import paths, as soon as their own imports are
// (The Go Programming Language Specification, Program initialization).
package stack

var _ = grow(0)

//go:noinline
func grow(i int) byte {
	var room [8 << 10]byte
	return room[i]
}
