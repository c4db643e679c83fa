package cnifiles

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/nofollow"
)

// endings returns the endings of the files that runtimes read (libcni.ConfFiles).
func endings() []string { return []string{".conf", ".conflist", ".json"} }

// shadowed returns an error if the runtime takes another file than ours.
func (c Config) shadowed() error {
	earlier, err := c.earlier()
	if err != nil || len(earlier) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s in %s sort before %s: remove them if their network is gone, or give ours a name that sorts before them",
		ErrShadowed, strings.Join(earlier, ", "), c.Dir, c.Name)
}

// earlier returns the configurations that sort before ours and don't lead to it.
// os.ReadDir sorts as runtimes do, by bytes.
func (c Config) earlier() ([]string, error) {
	files, err := os.ReadDir(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("look for other network configurations: %w", err)
	}
	var names []string
	for _, f := range files {
		if name := f.Name(); name < c.Name && slices.Contains(endings(), filepath.Ext(name)) && !f.IsDir() && !c.leadsToUs(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Callers returns the paths of the configurations that call the plugin. Any that
// exist after Remove were not written by the daemon.
func (c Config) Callers() ([]string, error) {
	files, err := os.ReadDir(c.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for network configurations: %w", err)
	}
	var paths []string
	for _, f := range files {
		path := filepath.Join(c.Dir, f.Name())
		if !slices.Contains(endings(), filepath.Ext(path)) || !f.Type().IsRegular() {
			continue
		}
		if text, err := nofollow.ReadAnyFile(path); err == nil && callsUs(text) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

func callsUs(text []byte) bool { return bytes.Contains(text, []byte(`"`+plugin+`"`)) }

// leadsToUs reports whether a configuration calls our plugin or names our file.
// Multus's configuration does, and is first on purpose.
func (c Config) leadsToUs(name string) bool {
	text, err := nofollow.ReadAnyFile(filepath.Join(c.Dir, name))
	return err == nil && (callsUs(text) || bytes.Contains(text, []byte(c.Name)))
}
