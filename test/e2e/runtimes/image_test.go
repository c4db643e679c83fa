package runtimes

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// image is the name of the only image that there is: the pods', and what
// containerd keeps a sandbox with.
const image = "localhost/pod:1"

// saveImage writes a docker archive with one layer, which has one program.
func saveImage(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(os.Getenv(buildEnv), "pod"))
	check(t, err)
	layer := archive(t, file{"pod", program, 0o755})
	sum := sha256.Sum256(layer)
	config := jsonOf(t, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "2026-01-01T00:00:00Z",
		"config": map[string]any{"Entrypoint": []string{"/pod"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	manifest := jsonOf(t, []any{map[string]any{"Config": "config.json", "RepoTags": []string{image}, "Layers": []string{"layer.tar"}}})
	path := filepath.Join(t.TempDir(), "image.tar")
	data := archive(t, file{"manifest.json", manifest, 0o644}, file{"config.json", config, 0o644}, file{"layer.tar", layer, 0o644})
	check(t, os.WriteFile(path, data, 0o644))
	return path
}

type file struct {
	name string
	data []byte
	mode int64
}

func archive(t *testing.T, files ...file) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		check(t, w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg}))
		_, err := w.Write(f.data)
		check(t, err)
	}
	check(t, w.Close())
	return out.Bytes()
}

func jsonOf(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	check(t, err)
	return data
}
