// Testreport turns the events of `go test -json` into what a person reads:
//
//	go test -json ./... | go run ./internal/testreport
//
// It prints a line for each package as it finishes, the whole output of what
// failed, then which tests were skipped and why, and last the plain line
// "N passed, N failed, N skipped".
//
// Invariant: nothing that failed to run counts as passed. A package that does
// not build, a test that never ended, and a stream that stops short are
// failures; a skipped test is one too where it could have run, that is as root.
package main
