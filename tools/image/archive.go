package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// save writes the index as an archive: an OCI image layout, as tar.
func (o options) save(index v1.ImageIndex, file string) error {
	dir, err := os.MkdirTemp("", "overlay-cni-image-")
	if err != nil {
		return err
	}
	err = o.layOut(index, dir)
	if err == nil {
		err = pack(dir, file, o.created)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// layOut writes the layout with the image's names in it: the full one is for
// containerd, and the tag alone what the specification has.
func (o options) layOut(index v1.ImageIndex, dir string) error {
	tag, err := name.NewTag(o.name, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("the image's name: %w", err)
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          tag.Name(),
		"org.opencontainers.image.ref.name": tag.TagStr(),
	}))
}

// pack writes the files of dir into an archive, in the order of their names.
func pack(dir, file string, created time.Time) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return add(w, header(filepath.ToSlash(name), textMode, created), content)
	})
	err = errors.Join(err, w.Close(), out.Close())
	if err != nil {
		_ = os.Remove(file) // half an archive is worse than none
	}
	return err
}

// summarize tells what was made, and how large it is.
func summarize(index v1.ImageIndex, name, file string, out io.Writer) error {
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	var platforms []string
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
	}
	slices.Sort(platforms)
	_, err = fmt.Fprintf(out, "%s: %s@%s, %s, %.1f MB\n", file, name, digest, strings.Join(platforms, " and "), float64(info.Size())/1e6)
	return err
}
