package strictyaml

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// joined are all mistakes; nil if there are none.
func joined(r *Reader) error { return errors.Join(r.Mistakes()...) }

func TestDocumentRefuses(t *testing.T) {
	tests := map[string]struct{ text, want string }{
		"list not closed": {"a: 1\nb: [x\nc: d\n",
			`f.yaml:1: malformed YAML: did not find expected ',' or ']'`},
		"quote not closed, far from the end": {"a: 1\nb: 'x\n" + strings.Repeat("c: d\n", 500),
			`f.yaml:2: malformed YAML: found unexpected end of stream`},
		"line without a colon": {"a: b\nc d\ne: f\n",
			`f.yaml:2: malformed YAML: could not find expected ':'`},
		"in the first line": {"a: b: c\n",
			`f.yaml: malformed YAML: mapping values are not allowed in this context`},
		"wrong indentation": {"a:\n  b: 1\n c: 2\nd: 3\n",
			`f.yaml:2: malformed YAML: did not find expected key`},
		"tab": {"a:\n\tb: 1\n",
			`f.yaml:2: malformed YAML: found character that cannot start any token`},
		"mixed list and mapping": {"- a\nb: c\n",
			`f.yaml:1: malformed YAML: did not find expected '-' indicator`},
		"not UTF-8": {"a: 1\nb: 2\nc: \xff\nd: 3\n",
			`f.yaml: malformed YAML: invalid leading UTF-8 octet`},
		"control character": {"a: 1\nb: \x01\n",
			`f.yaml: malformed YAML: control characters are not allowed`},
		"unknown alias": {"a: 1\nb: *x\n",
			`f.yaml: malformed YAML: unknown anchor 'x' referenced`},
		"after lists of many lines that are right": {"a: [\n1,\n2\n]\nb: [\n1,\n2\n]\nc: }\nd: 1\n",
			`f.yaml:8: malformed YAML: did not find expected node content`},
		"in the second document": {"a: 1\n---\nb: ]\n",
			`f.yaml:2: malformed YAML: did not find expected node content`},
		"no line end": {"{", `f.yaml:1: malformed YAML: did not find expected node content`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := NewReader("f.yaml")
			if root := r.Document([]byte(tt.text)); root != nil {
				t.Errorf("root is %v", root)
			}
			want := tt.want + ": check indentation, quotes and brackets near this place"
			if err := joined(r); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestSecondDocumentIsAMistakeBesideTheFirst(t *testing.T) {
	r := NewReader("f.yaml")
	if root := r.Document([]byte("a: 1\n---\nb: 2\n")); root == nil {
		t.Error("the first document is lost")
	}
	want := "f.yaml:2:1: a second document begins here: keep one, and remove the line ---"
	if err := joined(r); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestEmptyDocumentsAreNoMistake(t *testing.T) {
	for _, text := range []string{"", "\n", "# comment\n", "---\n", "null\n", "\ufeff"} {
		r := NewReader("f.yaml")
		if root := r.Document([]byte(text)); root != nil || joined(r) != nil {
			t.Errorf("%q: got %v, %v", text, root, joined(r))
		}
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"nodeName", "mtu", "registry.file", "vxlan.vni", "vxlan.port", "log.level", "noMasqueradeTo"}
	m := Mapping{Keys: []string{"nodeName", "mtu", "registry", "vxlan", "log"}, Known: known}
	tests := map[string]string{
		"nodename":                  `did you mean "nodeName"?`,
		"node_name":                 `did you mean "nodeName"?`,
		"mut":                       `did you mean "mtu"?`,
		"vni":                       `write "vni" inside the mapping "vxlan"`,
		"vxlan.vni":                 `write "vni" inside the mapping "vxlan"`,
		"vxlan-port":                `did you mean "vxlan.port"?`,
		"logLevel":                  `did you mean "log.level"?`,
		"noMasquerade":              `did you mean "noMasqueradeTo"?`,
		"color":                     `the keys here are nodeName, mtu, registry, vxlan, log`,
		"":                          `the keys here are nodeName, mtu, registry, vxlan, log`,
		strings.Repeat("mtu", 1000): `the keys here are nodeName, mtu, registry, vxlan, log`,
	}
	for name, want := range tests {
		if got := m.suggest(name); got != want {
			t.Errorf("%.20q: got %s, want %s", name, got, want)
		}
	}
}

func TestMistakesAreInTheOrderOfLinesAndMatch(t *testing.T) {
	sentinel := errors.New("is wrong")
	r := NewReader("f.yaml")
	root := r.Document([]byte("a: 1\nb: 2\n"))
	fields := map[string]Value{}
	for key, v := range r.Fields(Mapping{Node: root, Keys: []string{"a", "b"}}) {
		fields[key] = v
	}
	r.Add(fields["b"].Node, "b", sentinel)
	r.Add(fields["a"].Node, "a", sentinel)
	r.Add(nil, "", sentinel)
	want := "f.yaml: is wrong\nf.yaml:1:4: a: is wrong\nf.yaml:2:4: b: is wrong"
	if diff := cmp.Diff(want, joined(r).Error()); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	var mistake *Mistake
	if !errors.Is(joined(r), sentinel) || !errors.As(joined(r), &mistake) {
		t.Error("the error or its place can't be matched")
	}
}

func TestReadFileLimits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(path, []byte("a: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := ReadFile(path); err != nil || string(data) != "a: 1\n" {
		t.Errorf("got %q, %v", data, err)
	}
	want := "/dev/zero is larger than 16 MiB: expected a YAML file"
	if _, err := ReadFile("/dev/zero"); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Whatever the text is, all that is wrong with it is a Mistake.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{"", "a: [", "a: 'x\n\n", "\x00", "a\n\n\n: b: c", "---\n---\n--- ]", "\xff\xfea", "...\n", "%", "\r\r]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader("f")
		r.Document(data)
		for _, err := range r.Mistakes() {
			var m *Mistake
			if !errors.As(err, &m) || m.File != "f" || m.Line < 0 {
				t.Errorf("%v in %q", err, data)
			}
		}
	})
}
