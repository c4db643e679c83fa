package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// options are everything that the image follows from.
type options struct {
	dir      string
	arches   []string
	license  string
	name     string
	version  string
	revision string
	created  time.Time
}

// owner of the files is nobody in particular, and not root: so the daemon, which
// is root without the right to override permissions, can't write to its own
// program even where the root file system isn't read-only. The number is the
// one that distroless images have for it.
const owner = 65532

const (
	programMode = 0o555
	textMode    = 0o444
)

// labels are the same on the image and on the index.
func (o options) labels() map[string]string {
	const source = "https://github.com/overlay-cni/overlay-cni"
	return map[string]string{
		"org.opencontainers.image.title":       "overlay-cni",
		"org.opencontainers.image.description": "VXLAN pod network: the daemon overlayd and the CNI plugin overlay-cni",
		"org.opencontainers.image.url":         source,
		"org.opencontainers.image.source":      source,
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     o.version,
		"org.opencontainers.image.revision":    o.revision,
		"org.opencontainers.image.created":     o.created.Format(time.RFC3339),
	}
}

// build makes the index of the images of all architectures.
func (o options) build() (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range o.arches {
		image, err := o.image(arch)
		if err != nil {
			return nil, fmt.Errorf("make the image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return mutate.Annotations(index, o.labels()).(v1.ImageIndex), nil
}

func (o options) image(arch string) (v1.Image, error) {
	layer, err := o.layer(arch)
	if err != nil {
		return nil, err
	}
	config := &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: o.created}, RootFS: v1.RootFS{Type: "layers"},
		// As a user who isn't root the daemon could have no capability, for
		// Kubernetes can't give one to it (KEP-2763).
		Config: v1.Config{User: "0:0", Entrypoint: []string{"/overlayd"}, Labels: o.labels()},
	}
	image, err := mutate.ConfigFile(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), config)
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: o.created}, CreatedBy: "tools/image"},
	})
}

// layer has the programs and the licence, in the root directory: there is
// nothing else.
func (o options) layer(arch string) (v1.Layer, error) {
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, f := range []struct {
		name, path string
		mode       fs.FileMode
	}{
		{"LICENSE", o.license, textMode},
		{"overlay-cni", filepath.Join(o.dir, arch, "overlay-cni"), programMode},
		{"overlayd", filepath.Join(o.dir, arch, "overlayd"), programMode},
	} {
		content, err := os.ReadFile(f.path)
		if err != nil {
			return nil, err
		}
		if err := add(w, header(f.name, f.mode, o.created), content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(text.Bytes())), nil
	}, tarball.WithCompressionLevel(gzip.BestCompression), tarball.WithMediaType(types.OCILayer))
}

func header(name string, mode fs.FileMode, created time.Time) *tar.Header {
	return &tar.Header{Name: name, Mode: int64(mode), Uid: owner, Gid: owner, ModTime: created, Typeflag: tar.TypeReg}
}

func add(w *tar.Writer, h *tar.Header, content []byte) error {
	h.Size = int64(len(content))
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
