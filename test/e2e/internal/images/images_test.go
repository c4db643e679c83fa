package images

import (
	"archive/tar"
	"errors"
	"io"
	"slices"
	"testing"
)

func TestNamesAreThoseThatTestsAskFor(t *testing.T) {
	asked := []string{"registry.example/tests/busybox:1.36", "registry.example/tests/agnhost:2.59", "registry.example/pause:3.10", "example/nginx-slim:1"}
	want := map[string][]string{
		"pause":   {Pause, "registry.example/pause:3.10"},
		"agnhost": {Agnhost, "registry.example/tests/agnhost:2.59"},
		"nginx":   nil,
	}
	for _, i := range all() {
		if len(i.asked) == 0 {
			continue
		}
		names, ok := want[i.asked[0]]
		if got := i.names(asked); ok && !slices.Equal(got, names) {
			t.Errorf("%s: %q, want %q", i.asked[0], got, names)
		}
	}
}

func TestLayerHasFoldersBeforeFiles(t *testing.T) {
	files := tree{"usr/bin/sh": {link: "busybox"}, "etc/passwd": {text: "root"}, "tmp": {mode: 0o1777}}
	layer, err := files.layer()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	var got []string
	for r := tar.NewReader(content); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(header.Typeflag)+header.Name)
	}
	want := []string{"5etc", "0etc/passwd", "5tmp", "5usr", "5usr/bin", "2usr/bin/sh"}
	if !slices.Equal(got, want) {
		t.Errorf("the layer has %q, want %q", got, want)
	}
}
