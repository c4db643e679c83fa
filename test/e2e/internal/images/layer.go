package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// entry is a file of an image. Its folders need not be named.
type entry struct {
	from string // a file of this machine; or
	link string // what it is a link to; or
	text string
	mode int64 // 0755 if 0; with a mode and nothing of the above, a folder
}

// tree is an image's files, by their paths without the first slash.
type tree map[string]entry

// layer is the tree as a layer. The same files make the same layer, whose
// content is stored once for all images that have it.
func (t tree) layer() (v1.Layer, error) {
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	paths := t.withFolders()
	for _, path := range paths {
		if err := t[path].write(w, path); err != nil {
			return nil, fmt.Errorf("pack %s: %w", path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil })
}

// withFolders adds all folders, and returns the paths in an order in which
// folders come before what is in them.
func (t tree) withFolders() []string {
	for path := range t {
		for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
			if _, ok := t[dir]; !ok {
				t[dir] = entry{mode: 0o755}
			}
		}
	}
	var paths []string
	for path := range t {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

func (e entry) write(w *tar.Writer, path string) error {
	header := &tar.Header{Name: path, Mode: 0o755, Typeflag: tar.TypeReg}
	content := []byte(e.text)
	switch {
	case e.from != "":
		var err error
		if content, err = os.ReadFile(e.from); err != nil {
			return err
		}
	case e.link != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, e.link
	case e.text == "":
		header.Typeflag, header.Mode = tar.TypeDir, e.mode
	default:
		header.Mode = 0o644
	}
	header.Size = int64(len(content))
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// addPrograms adds programs of this machine and the libraries that they load.
func (t tree) addPrograms(names ...string) error {
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		if err != nil {
			return fmt.Errorf("find a program for the images: %w; install it: %s", err, install())
		}
		t["usr/bin/"+name] = entry{from: path}
		if err := t.addLibraries(path); err != nil {
			return err
		}
	}
	return nil
}

func (t tree) addLibraries(program string) error {
	out, err := exec.Command("ldd", program).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil // a static program, or a script
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		for _, field := range strings.Fields(line) {
			if strings.HasPrefix(field, "/") {
				t[strings.TrimPrefix(field, "/")] = entry{from: field}
			}
		}
	}
	return nil
}
