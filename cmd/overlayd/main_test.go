package main

import (
	"io"
	"strings"
	"testing"
)

// What is no flag is refused, with what to write in its place.
func TestNoArguments(t *testing.T) {
	for _, command := range []string{"run", "install", "uninstall", "demo"} {
		root := rootCommand()
		root.SetArgs([]string{command, "false"})
		root.SetOut(io.Discard)
		err := root.Execute()
		want := "overlayd " + command + ` takes no arguments, but got "false": `
		if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "--NAME=false") {
			t.Errorf("%v\nis not %s", err, want)
		}
	}
}
