package nofollow

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// planted are what somebody may put in a file's place. Each leads to the file
// outside, or blocks whoever opens it.
var planted = map[string]func(outside, path string) error{
	"a symbolic link":               os.Symlink,
	"a dangling link":               func(outside, path string) error { return os.Symlink(outside+"-none", path) },
	"a hard link":                   os.Link,
	"a pipe":                        func(_, path string) error { return unix.Mkfifo(path, 0o644) },
	"a folder":                      func(_, path string) error { return os.Mkdir(path, 0o755) },
	"a link to a pipe that is read": func(_, path string) error { return os.Symlink("/proc/self/fd/0", path) },
}

// Each way to open a file refuses what is not a file, names it, and leaves the file
// outside as it was.
func TestFilesAreNotFollowed(t *testing.T) {
	t.Parallel()
	for what, plant := range planted {
		for how, use := range map[string]func(Folder) error{
			"to read": func(f Folder) error {
				_, err := f.ReadFile("file")
				return err
			},
			"to read by its path": func(f Folder) error {
				_, err := ReadFile(f.Path("file"))
				return err
			},
			"to write": func(f Folder) error {
				file, err := f.OpenFile("file", os.O_RDWR|os.O_CREATE)
				if err == nil {
					_, err = file.WriteString("overwritten")
				}
				return err
			},
		} {
			t.Run(what+" "+how, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				outside := filepath.Join(dir, "outside")
				must(t, os.WriteFile(outside, []byte("secret"), 0o644))
				f, err := Make(filepath.Join(dir, "a", "b"))
				must(t, err)
				defer f.Close()
				must(t, plant(outside, f.Path("file")))
				if err := use(f); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), f.Path("file")) {
					t.Errorf("the error is %v", err)
				}
				if have, err := os.ReadFile(outside); err != nil || string(have) != "secret" {
					t.Errorf("the file outside has %q, %v", have, err)
				}
				if _, err := os.Lstat(outside + "-none"); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("a file was made outside: %v", err)
				}
			})
		}
	}
}

func TestFoldersAreNotFollowed(t *testing.T) {
	t.Parallel()
	for what, plant := range map[string]func(outside, path string) error{
		"a symbolic link": os.Symlink,
		"a dangling link": planted["a dangling link"],
		"a file":          func(_, path string) error { return os.WriteFile(path, nil, 0o644) },
		"a pipe":          planted["a pipe"],
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, outside := filepath.Join(dir, "folder"), filepath.Join(dir, "outside")
			must(t, os.Mkdir(outside, 0o755))
			must(t, plant(outside, path))
			for _, open := range []func(string) (Folder, error){Open, Make} {
				if _, err := open(path); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), path) {
					t.Errorf("the error is %v", err)
				}
			}
		})
	}
}

// The folder above may be reached by a link: an administrator made it.
func TestTheWayIsFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	f, err := Make(filepath.Join(dir, "link", "folder"))
	must(t, err)
	defer f.Close()
	must(t, f.WriteFile("file", []byte("text"), 0o600))
	if have, err := os.ReadFile(filepath.Join(dir, "real", "folder", "file")); err != nil || string(have) != "text" {
		t.Errorf("got %q, %v", have, err)
	}
}

// WriteFile replaces what is in its way, at the final name and at the first one.
func TestWriteFileReplacesLinks(t *testing.T) {
	t.Parallel()
	for what, plant := range planted {
		if what == "a folder" {
			continue // it stays, and the error names it
		}
		for _, name := range []string{"file", ".file.next"} {
			t.Run(what+" at "+name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				outside := filepath.Join(dir, "outside")
				must(t, os.WriteFile(outside, []byte("secret"), 0o644))
				f, err := Make(filepath.Join(dir, "folder"))
				must(t, err)
				defer f.Close()
				must(t, plant(outside, f.Path(name)))
				must(t, f.WriteFile("file", []byte("new"), 0o640))
				info, err := os.Lstat(f.Path("file"))
				if have, readErr := f.ReadFile("file"); string(have) != "new" || readErr != nil || err != nil || info.Mode() != 0o640 {
					t.Errorf("got %q, %v, %v, %v", have, readErr, err, info.Mode())
				}
				if have, _ := os.ReadFile(outside); string(have) != "secret" {
					t.Errorf("the file outside has %q", have)
				}
				if names, err := f.Names(); err != nil || len(names) != 1 {
					t.Errorf("left are %v, %v", names, err)
				}
			})
		}
	}
}

func TestReadFileReadsAll(t *testing.T) {
	t.Parallel()
	f, err := Make(filepath.Join(t.TempDir(), "folder"))
	must(t, err)
	defer f.Close()
	for _, size := range []int{0, 1, 4095, 4096, 100_000} {
		must(t, f.WriteFile("file", []byte(strings.Repeat("x", size)), 0o644))
		if have, err := f.ReadFile("file"); err != nil || len(have) != size {
			t.Errorf("%d bytes of %d, %v", len(have), size, err)
		}
	}
	// The size of a file below /proc is 0.
	if have, err := ReadFile("/proc/self/status"); err != nil || len(have) == 0 {
		t.Errorf("%q, %v", have, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
