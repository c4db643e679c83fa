// Empty is what a Go program costs that does nothing, see test/bench.
package main

func main() {}
