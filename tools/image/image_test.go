package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const (
	imageName = "overlay-cni.io/overlay-cni:v1.2.3"
	created   = 1700000000
)

// programs stand for the real ones: the contents tell the architectures apart.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, arch := range []string{"amd64", "arm64"} {
		for _, name := range []string{"overlayd", "overlay-cni"} {
			write(t, filepath.Join(dir, arch, name), name+" for "+arch)
		}
	}
	write(t, filepath.Join(dir, "LICENSE"), "the licence")
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// packed runs the program and returns the archive.
func packed(t *testing.T, dir string, more ...string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	args := []string{
		"--dir", dir, "--license", filepath.Join(dir, "LICENSE"), "--name", imageName, "--version", "v1.2.3",
		"--revision", "0123abc", "--created", "1700000000", "--out", file,
	}
	var out strings.Builder
	if err := run(append(args, more...), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), imageName+"@sha256:") {
		t.Errorf("it says %q", out.String())
	}
	archive, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// files are what a tar archive has, by name.
func files(t *testing.T, r io.Reader) (map[string]*tar.Header, map[string]string) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string]string{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		text, readErr := io.ReadAll(archive)
		if err := errors.Join(err, readErr); err != nil {
			t.Fatal(err)
		}
		headers[h.Name], contents[h.Name] = h, string(text)
	}
}

// unpacked reads an archive as those do who load it.
func unpacked(t *testing.T, archive []byte) v1.ImageIndex {
	t.Helper()
	dir := t.TempDir()
	_, contents := files(t, bytes.NewReader(archive))
	for name, text := range contents {
		write(t, filepath.Join(dir, name), text)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// inner is the one image of a layout, an index of architectures.
func inner(t *testing.T, outer v1.ImageIndex) (v1.Descriptor, v1.ImageIndex) {
	t.Helper()
	m := manifestOf(t, outer)
	if len(m.Manifests) != 1 {
		t.Fatalf("the layout has %d images", len(m.Manifests))
	}
	index, err := outer.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return m.Manifests[0], index
}

func manifestOf(t *testing.T, index v1.ImageIndex) *v1.IndexManifest {
	t.Helper()
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// All digests and sizes are right, and the image has the names by which
// containerd and others know it.
func TestArchiveIsAnOCIImage(t *testing.T) {
	archive := packed(t, programs(t))
	headers, _ := files(t, bytes.NewReader(archive))
	for name, h := range headers {
		if h.ModTime.Unix() != created {
			t.Errorf("%s is of %s", name, h.ModTime)
		}
	}
	outer := unpacked(t, archive)
	if err := validate.Index(outer); err != nil {
		t.Error(err)
	}
	d, index := inner(t, outer)
	if d.MediaType != types.OCIImageIndex || d.Annotations["io.containerd.image.name"] != imageName || d.Annotations["org.opencontainers.image.ref.name"] != "v1.2.3" {
		t.Errorf("the layout has %+v", d)
	}
	m := manifestOf(t, index)
	if m.Annotations["org.opencontainers.image.version"] != "v1.2.3" {
		t.Errorf("annotations %v", m.Annotations)
	}
	var platforms []string
	for _, d := range m.Manifests {
		platforms = append(platforms, d.Platform.String())
	}
	if !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("platforms %q", platforms)
	}
}

func TestImages(t *testing.T) {
	_, index := inner(t, unpacked(t, packed(t, programs(t))))
	for _, d := range manifestOf(t, index).Manifests {
		t.Run(d.Platform.Architecture, func(t *testing.T) {
			image, err := index.Image(d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			config, err := image.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if config.Architecture != d.Platform.Architecture || config.OS != "linux" || config.Created.Unix() != created {
				t.Errorf("the image is for %s %s, of %s", config.OS, config.Architecture, config.Created)
			}
			c := config.Config
			if !slices.Equal(c.Entrypoint, []string{"/overlayd"}) || len(c.Cmd)+len(c.Env) > 0 || c.User != "0:0" || c.Labels["org.opencontainers.image.revision"] != "0123abc" {
				t.Errorf("the image runs %+v", c)
			}
			checkContents(t, image, d.Platform.Architecture)
		})
	}
}

// checkContents: two programs and the licence, which nobody may write to, of a
// user who is not root.
func checkContents(t *testing.T, image v1.Image, arch string) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	headers, contents := files(t, r)
	want := map[string]string{"overlayd": "overlayd for " + arch, "overlay-cni": "overlay-cni for " + arch, "LICENSE": "the licence"}
	if !maps.Equal(contents, want) {
		t.Errorf("the image has %v", contents)
	}
	modes := map[string]int64{"overlayd": 0o555, "overlay-cni": 0o555, "LICENSE": 0o444}
	for name, h := range headers {
		if h.Typeflag != tar.TypeReg || h.Mode != modes[name] || h.Uid != 65532 || h.Gid != 65532 || h.ModTime.Unix() != created {
			t.Errorf("%s: %+v", name, h)
		}
	}
}

// The archive follows from the programs, whenever and wherever it is made.
func TestTheSameProgramsGiveTheSameBytes(t *testing.T) {
	first, second := packed(t, programs(t)), packed(t, programs(t))
	if !bytes.Equal(first, second) {
		t.Error("two archives of the same programs differ")
	}
	dir := programs(t)
	write(t, filepath.Join(dir, "arm64", "overlayd"), "another one")
	if bytes.Equal(first, packed(t, dir)) {
		t.Error("another program makes no difference")
	}
}

func TestOneArchitecture(t *testing.T) {
	_, index := inner(t, unpacked(t, packed(t, programs(t), "--arch", "arm64")))
	if m := manifestOf(t, index).Manifests; len(m) != 1 || m[0].Platform.Architecture != "arm64" {
		t.Errorf("the index has %+v", m)
	}
}

func TestMistakes(t *testing.T) {
	dir := programs(t)
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"an architecture that was not built": {[]string{"--arch", "amd64,s390x"}, "make the image for s390x: open " + filepath.Join(dir, "s390x", "overlay-cni")},
		"no tag":                             {[]string{"--name", "overlay-cni"}, "the image's name: "},
		"a folder that isn't there":          {[]string{"--out", filepath.Join(dir, "none", "x.tar")}, "none/x.tar: no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"--dir", dir, "--license", filepath.Join(dir, "LICENSE"), "--name", imageName, "--out", filepath.Join(t.TempDir(), "x.tar")}
			if err := run(append(args, tt.args...), io.Discard); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
