package file

import (
	"os"
	"path/filepath"
	"testing"
)

// The same content gives the very same nodes or error, and is not parsed again;
// another one does.
func TestReaderParsesContentOnce(t *testing.T) {
	r := reader{path: filepath.Join(t.TempDir(), "nodes.yaml")}
	write := func(text string) {
		if err := os.WriteFile(r.path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(oneNode("a"))
	first, err := r.read()
	if err != nil {
		t.Fatal(err)
	}
	write(oneNode("a"))
	if again, err := r.read(); err != nil || &again[0] != &first[0] {
		t.Errorf("the same file gave other nodes: %v, %v", again, err)
	}
	write("nodes: {}\n")
	_, broken := r.read()
	if broken == nil {
		t.Fatal("a broken file gave no error")
	}
	if _, err := r.read(); err != broken { //nolint:errorlint // the very same is meant
		t.Errorf("the same broken file gave another error: %v", err)
	}
	if err := os.Remove(r.path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.read(); err == nil {
		t.Error("no file gave no error")
	}
	write(oneNode("a"))
	if again, err := r.read(); err != nil || len(again) != 1 {
		t.Errorf("mended, it is %v, %v", again, err)
	}
}
