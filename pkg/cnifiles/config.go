package cnifiles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/internal/nofollow"
)

const (
	// DefaultConfDir is where runtimes read network configurations.
	DefaultConfDir = "/etc/cni/net.d"
	// DefaultConfName sorts before the names that most networks use: runtimes take
	// the first file.
	DefaultConfName = "10-overlay-cni.conflist"
	// confMode lets only root read the file, as security benchmarks for Kubernetes
	// demand.
	confMode = 0o600
	// plugin is the type of the plugin, and the name of its program.
	plugin = "overlay-cni"
)

// conflist is the same as conf/10-overlay.conflist, but for the run directory, which
// is filled in as a JSON string.
const conflist = `{
  "cniVersion": "1.0.0",
  "cniVersions": ["1.0.0", "1.1.0"],
  "name": "overlay",
  "plugins": [
    {
      "type": "` + plugin + `",
      "runDir": %s,
      "capabilities": { "portMappings": true, "bandwidth": true, "ips": true, "mac": true }
    }
  ]
}
`

// Conflist returns the network configuration for a host with a daemon.
func Conflist(runDir string) []byte {
	dir, _ := json.Marshal(runDir) // encoding a string can't fail
	return fmt.Appendf(nil, conflist, dir)
}

// Config is a network configuration in a runtime's directory.
type Config struct {
	Dir string
	// Name is the file's, see CheckName.
	Name    string
	Content []byte
}

// CheckName returns an error unless runtimes read a file of that name as a list of
// plugins.
func CheckName(name string) error {
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") || filepath.Ext(name) != ".conflist" {
		return fmt.Errorf("expected a file name that ends in .conflist, such as %s", DefaultConfName)
	}
	return nil
}

// ErrShadowed says that the runtime takes another network configuration.
var ErrShadowed = errors.New("the container runtime takes the first network configuration, which is not ours")

// Sync makes the file what it should be, and returns what it changed. Without a
// directory it does nothing. The error is ErrShadowed if the file is right, but
// the runtime takes another one.
func (c Config) Sync() ([]string, error) {
	if c.Dir == "" {
		return nil, nil
	}
	var changes []string
	why, err := c.difference()
	if err != nil {
		return nil, err
	}
	if why != "" {
		if err := c.file().put(); err != nil {
			return nil, err
		}
		changes = []string{fmt.Sprintf("wrote %s: %s", c.path(), why)}
	}
	return changes, c.shadowed()
}

// Differs reports whether another Sync would change something, or return another error
// than the last one.
func (c Config) Differs(last error) bool {
	if c.Dir == "" {
		return false
	}
	why, err := c.difference()
	if err == nil {
		err = c.shadowed()
	}
	return why != "" || text(err) != text(last)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Remove removes the file, and every file in its directory with the same content:
// the daemon wrote those when its configuration gave other names. It returns the
// paths of the removed files.
func (c Config) Remove() ([]string, error) {
	files, err := os.ReadDir(c.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for network configurations: %w", err)
	}
	all := []Config{c}
	for _, f := range files {
		if other := (Config{c.Dir, f.Name(), c.Content}); f.Name() != c.Name && f.Type().IsRegular() && other.isOurs() {
			all = append(all, other)
		}
	}
	var removed []string
	var errs []error
	for _, one := range all {
		was, err := one.file().remove()
		if was {
			removed = append(removed, one.path())
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// isOurs reports whether the file exists with the wanted content.
func (c Config) isOurs() bool {
	why, err := c.difference()
	return CheckName(c.Name) == nil && err == nil && why == ""
}

func (c Config) path() string { return filepath.Join(c.Dir, c.Name) }

func (c Config) file() file { return file{c.path(), c.Content, confMode} }

// difference says what is wrong with the file, or "".
func (c Config) difference() (string, error) {
	have, err := nofollow.ReadFile(c.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there was none", nil
	case errors.Is(err, nofollow.ErrUnsafe):
		return "it was no file of its own", nil
	case err != nil:
		return "", fmt.Errorf("read the network configuration: %w", err)
	case bytes.Equal(have, c.Content), chained(have, c.Content):
		return "", nil
	}
	return "it had another content", nil
}

// chained reports whether have is want with more plugins behind its own. Service
// meshes (Istio, Linkerd) append theirs, and would do so again for ever.
func chained(have, want []byte) bool {
	h, hOK := parse(have)
	w, wOK := parse(want)
	if !hOK || !wOK || len(h.plugins) <= len(w.plugins) {
		return false
	}
	h.plugins = h.plugins[:len(w.plugins)]
	return h.rest == w.rest && slices.Equal(h.plugins, w.plugins)
}

// list is a parsed configuration, in a form that can be compared.
type list struct {
	plugins []string
	rest    string
}

// parse encodes the parts of a configuration again, so that the order of keys and
// white space don't count.
func parse(text []byte) (list, bool) {
	var all map[string]any
	if err := json.Unmarshal(text, &all); err != nil {
		return list{}, false
	}
	plugins, _ := all["plugins"].([]any)
	delete(all, "plugins")
	l := list{rest: canonical(all)}
	for _, p := range plugins {
		l.plugins = append(l.plugins, canonical(p))
	}
	return l, true
}

func canonical(v any) string {
	text, _ := json.Marshal(v) // the value came from JSON
	return string(text)
}
