package filewatch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Whatever happens to the folder or to what is in it is reported, and so is what
// happens afterwards.
func TestFolders(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(folder string) error{
		"a file appears":      func(f string) error { return os.WriteFile(filepath.Join(f, "new"), nil, 0o644) },
		"a file changes":      func(f string) error { return os.WriteFile(filepath.Join(f, "old"), []byte("x"), 0o644) },
		"a file goes":         func(f string) error { return os.Remove(filepath.Join(f, "old")) },
		"a link goes":         func(f string) error { return os.Remove(filepath.Join(f, "link")) },
		"the folder goes":     os.RemoveAll,
		"the folder is moved": func(f string) error { return os.Rename(f, f+"-moved") },
		"all above it goes":   func(f string) error { return os.RemoveAll(filepath.Dir(f)) },
		"it is replaced": func(f string) error {
			if err := os.Rename(f, f+"-moved"); err != nil {
				return err
			}
			return os.Mkdir(f, 0o755)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := filepath.Join(t.TempDir(), "a", "folder")
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(os.MkdirAll(folder, 0o755))
			must(os.WriteFile(filepath.Join(folder, "old"), nil, 0o644))
			must(os.Symlink("nowhere", filepath.Join(folder, "link")))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			reported, ended := make(chan string), make(chan error, 1)
			go func() {
				ended <- watchFolders(ctx, []string{folder, filepath.Join(folder, "missing")}, func(path string) {
					select {
					case reported <- path:
					case <-ctx.Done():
					}
				}, 10*time.Millisecond)
			}()
			defer func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}()
			// The watch has begun once a change is reported.
			begun := filepath.Join(folder, "begun")
			seen := func(what string, again func()) {
				t.Helper()
				for {
					again()
					select {
					case <-reported:
						return
					case <-time.After(20 * time.Millisecond):
					case <-ctx.Done():
						t.Fatal(what + " is not reported")
					}
				}
			}
			seen("the beginning", func() { must(os.WriteFile(begun, nil, 0o644)) })
			for quiet := false; !quiet; {
				select {
				case <-reported:
				case <-time.After(200 * time.Millisecond):
					quiet = true
				}
			}
			must(change(folder))
			seen("the change", func() {})
			must(os.MkdirAll(folder, 0o755))
			for quiet := false; !quiet; {
				select {
				case <-reported:
				case <-time.After(200 * time.Millisecond):
					quiet = true
				}
			}
			seen("a later change", func() { must(os.WriteFile(begun, []byte("again"), 0o644)) })
		})
	}
}
