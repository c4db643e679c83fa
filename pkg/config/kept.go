package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/nofollow"
)

const (
	// keptName is the file in the run directory that holds the text of the
	// configuration that set up this host last. A reboot removes it together with the
	// network that it describes.
	keptName = "config.yaml"
	// keptHeader is the file's first line. A file with another first line is of
	// another format, and counts as missing.
	keptHeader = "# overlayd set up this host's network with this configuration (format 1).\n"
	// Only root may read the file, as the operator's own file may be protected.
	keptMode = 0o600
)

// Keep writes the text of a configuration that set up this host's network into the
// run directory. It returns what it changed.
func Keep(runDir, text string) ([]string, error) {
	want := keptHeader + text
	if have, err := nofollow.ReadFile(filepath.Join(runDir, keptName)); err == nil && string(have) == want {
		return nil, nil
	}
	folder, err := nofollow.OpenBase(runDir)
	if err == nil {
		defer folder.Close()
		err = folder.WriteFile(keptName, []byte(want), keptMode)
	}
	if err != nil {
		return nil, fmt.Errorf("keep the configuration for a restart: %w", err)
	}
	return []string{"kept the configuration for a restart"}, nil
}

// Forget removes what Keep wrote.
func Forget(runDir string) error {
	err := os.Remove(filepath.Join(runDir, keptName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// kept returns the configuration that set up this host's network, joined with the
// flags of today. It returns false if the host has no network yet, or if flags are
// wrong.
func (l *Loader) kept() (Config, bool) {
	if l.path == "" {
		return Config{}, false
	}
	dir := l.runDir()
	text, err := nofollow.ReadFile(filepath.Join(dir, keptName))
	if err != nil {
		return Config{}, false
	}
	yaml, ok := strings.CutPrefix(string(text), keptHeader)
	if !ok {
		return Config{}, false
	}
	c, err := l.join(Shared{}, []byte(yaml))
	return c, err == nil && c.RunDir == dir
}

// runDir returns the run directory that a configuration with mistakes names. A
// mistake elsewhere doesn't hide it, unless the file is not even YAML.
func (l *Loader) runDir() string {
	text, _ := l.read() // else flags and defaults decide
	return l.build(Shared{}, text).config.RunDir
}
