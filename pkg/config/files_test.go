package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlay-cni/overlay-cni/pkg/registry/file"
)

const (
	docs = "../../docs/configuration.md"
	conf = "../../conf"
)

// The table in the documentation is made of the settings, so that it is
// complete and its flags and defaults are true.
func TestDocumentationListsEverySetting(t *testing.T) {
	text, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString("| Key | Flag | Default | Meaning |\n|---|---|---|---|\n")
	for _, s := range settings() {
		shown := s.computed
		if shown == "" {
			shown = "`" + s.fallback + "`"
		}
		fmt.Fprintf(&want, "| `%s` | `--%s` | %s | %s |\n", s.key, s.flag(), shown, capital(s.usage))
	}
	header, _, _ := strings.Cut(want.String(), "\n")
	_, after, _ := strings.Cut(string(text), header)
	table, _, _ := strings.Cut(after, "\n\n")
	if diff := cmp.Diff(want.String(), header+table+"\n"); diff != "" {
		t.Errorf("the table in %s should be:\n%s\ndiffering (-want +got):\n%s", docs, want.String(), diff)
	}
	for _, s := range settings() {
		if _, allowed, _ := strings.Cut(string(text), "| Key | Allowed |"); !strings.Contains(allowed, "`"+s.key+"`") {
			t.Errorf("%s does not say which values %s may have", docs, s.key)
		}
	}
}

// capital makes a sentence of a usage text.
func capital(usage string) string { return strings.ToUpper(usage[:1]) + usage[1:] + "." }

func TestExampleSettingsAreAccepted(t *testing.T) {
	got, err := load(t, filepath.Join(conf, "overlayd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, equalConfigs()); diff != "" {
		t.Errorf("the example differs from the defaults (-default +example):\n%s", diff)
	}
}

// What is commented out in the example are settings, too: a line "# key:" with
// nothing but the comment sign before it.
func TestExampleSettingsShowEveryKey(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(conf, "overlayd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var active []string
	for line := range strings.Lines(string(text)) {
		rest, commented := strings.CutPrefix(line, "# ")
		key, _, _ := strings.Cut(strings.TrimSpace(rest), ":")
		if commented && !strings.Contains(key, " ") && strings.Contains(rest, ":") {
			line = rest
		}
		active = append(active, line)
	}
	b := newBuilder()
	b.document("overlayd.yaml", []byte(strings.Join(active, "")), settings())
	if _, err := b.result(); err != nil {
		t.Fatalf("with the comment signs removed:\n%v", err)
	}
	for _, s := range settings() {
		if _, given := b.blame[s.key]; !given {
			t.Errorf("the example does not show %s", s.key)
		}
	}
}

func TestExampleNodesAreAccepted(t *testing.T) {
	r, err := file.New(filepath.Join(conf, "nodes.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	nodes, err := r.Nodes()
	if err != nil || len(nodes) != 3 {
		t.Errorf("got %v, %v; want three nodes", nodes, err)
	}
}

func TestExampleConflistsAreValid(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(conf, "*.conflist"))
	if err != nil || len(paths) < 2 {
		t.Fatalf("got %v, %v; want two files at least", paths, err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			var list struct {
				CNIVersion, Name string
				Plugins          []struct{ Type string }
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, &list); err != nil {
				t.Fatal(err)
			}
			if list.CNIVersion == "" || list.Name == "" || len(list.Plugins) == 0 {
				t.Fatalf("incomplete: %+v", list)
			}
			for _, p := range list.Plugins {
				if p.Type != "overlay-cni" {
					t.Errorf("plugin of type %q, want overlay-cni", p.Type)
				}
			}
		})
	}
}
