package main

import (
	"io"
	"os"
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

func TestInstallIntoAPlaceWithoutDirectories(t *testing.T) {
	root := rootCommand()
	root.SetArgs([]string{"install", "--bin-dir", "/proc/none", "--plugin", "main_test.go"})
	root.SetOut(io.Discard)
	if err := root.Execute(); err == nil || strings.Contains(err.Error(), "--plugin") {
		t.Errorf("%v\nblames the plugin for the directory", err)
	}
}

func TestInstallWithoutThePlugin(t *testing.T) {
	dir := t.TempDir()
	root := rootCommand()
	root.SetArgs([]string{"install", "--bin-dir", dir, "--plugin", dir + "/none"})
	root.SetOut(io.Discard)
	want := "read the plugin to install: open " + dir + "/none: no such file or directory: keep overlay-cni beside overlayd, or name it with --plugin"
	if err := root.Execute(); err == nil || err.Error() != want {
		t.Errorf("%v\nis not %s", err, want)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
