// Package stack has the main goroutine's stack grow, at once and early, to what
// an ADD needs; it is imported for that alone. Later there is more on the stack:
// the runtime walks up all callers to copy them, with tables that are not in
// memory yet. And each smaller size that it would get meanwhile costs a pool of
// its own, of eight pages.
//
// It imports nothing, so that it is initialised among the first: packages are,
// in the order of their import paths, as soon as what they import is (The Go
// Programming Language Specification, Program initialization).
package stack

var _ = grow(0)

//go:noinline
func grow(i int) byte {
	var room [8 << 10]byte
	return room[i]
}
