package cnifiles

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// In a sandbox, where a directory can be mounted read-only: root may write
// everywhere else.
func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), mode))
	must(t, os.Chmod(path, mode))
}

// files are the names in a directory.
func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// readOnly makes a directory one that nobody can write to.
func readOnly(t *testing.T, dir string) {
	t.Helper()
	must(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
}

func ours(dir string) Config {
	return Config{Dir: dir, Name: DefaultConfName, Content: Conflist("/run/overlay-cni")}
}

// What the daemon writes is what people without Kubernetes copy.
func TestConflistIsTheExample(t *testing.T) {
	example, err := os.ReadFile("../../conf/10-overlay.conflist")
	must(t, err)
	if got := Conflist("/run/overlay-cni"); !bytes.Equal(got, example) {
		t.Errorf("got\n%swant\n%s", got, example)
	}
	if got := Conflist(`/run/a "b"`); !strings.Contains(string(got), `"runDir": "/run/a \"b\"",`) {
		t.Errorf("a run directory that has to be quoted:\n%s", got)
	}
}

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{
		DefaultConfName: true, "00-x.conflist": true,
		"": false, "x.conf": false, ".x.conflist": false, "a/x.conflist": false, "..": false, ".conflist": false, "x.conflist/": false,
	} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// Text as others rewrite it: other order of keys, other white space.
const (
	oursRewritten = `{"name":"overlay","cniVersions":["1.0.0","1.1.0"],"cniVersion":"1.0.0","plugins":[
		{"capabilities":{"mac":true,"ips":true,"bandwidth":true,"portMappings":true},"runDir":"/run/overlay-cni","type":"overlay-cni"}`
	mesh = `,{"type":"istio-cni","log_level":"info"}]}`
)

func TestKeepMendsTheFile(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before string // "" for no file
		change string // the end of what Keep says; "" for nothing
		stays  bool   // what was there, instead of ours
	}{
		{"none", "", "there was none", false},
		{"right", string(Conflist("/run/overlay-cni")), "", true},
		{"half", string(Conflist("/run/overlay-cni")[:40]), "another content", false},
		{"empty", "\x00", "another content", false},
		{"another run directory", string(Conflist("/run/x")), "another content", false},
		{"rewritten", oursRewritten + "]}", "another content", false},
		{"a mesh's plugin behind ours", oursRewritten + mesh, "", true},
		{"ours with other options and a mesh's", strings.Replace(oursRewritten, "1.0.0", "0.4.0", 1) + mesh, "another content", false},
		{"ours changed, with a mesh's", strings.Replace(oursRewritten, `"mac":true`, `"mac":false`, 1) + mesh, "another content", false},
		{"another plugin alone", `{"plugins":[{"type":"bridge"},{"type":"portmap"}]}`, "another content", false},
		{"not even an object", `[]`, "another content", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := ours(t.TempDir())
			if tt.before != "" {
				write(t, c.path(), tt.before, 0o600)
			}
			before, _ := os.Stat(c.path())
			changes, err := c.Sync()
			if text := strings.Join(changes, "; "); err != nil || (text != "") != (tt.change != "") || !strings.HasSuffix(text, tt.change) {
				t.Errorf("changes %q, %v", text, err)
			}
			after, err := os.ReadFile(c.path())
			must(t, err)
			if want := map[bool]string{true: tt.before, false: string(c.Content)}[tt.stays]; string(after) != want {
				t.Errorf("the file is\n%s", after)
			}
			now, err := os.Stat(c.path())
			must(t, err)
			if tt.stays && !os.SameFile(before, now) {
				t.Error("a file that was right was written")
			}
			if !tt.stays && now.Mode() != confMode {
				t.Errorf("mode %o", now.Mode())
			}
			if again, err := c.Sync(); len(again) > 0 || err != nil {
				t.Errorf("a second time: %q, %v", again, err)
			}
		})
	}
}

func TestKeepMakesTheDirectory(t *testing.T) {
	c := ours(filepath.Join(t.TempDir(), "etc", "cni", "net.d"))
	if _, err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := files(t, c.Dir); !slices.Equal(got, []string{DefaultConfName}) {
		t.Errorf("there is %q", got)
	}
}

// A writer that was killed leaves a part of the file under the name that no
// runtime reads, with whatever mode.
func TestAKilledWriterIsMended(t *testing.T) {
	dir := t.TempDir()
	c, p := ours(dir), Program{filepath.Join(dir, plugin)}
	from := filepath.Join(t.TempDir(), "new")
	write(t, from, "a program", 0o644)
	for _, f := range []file{c.file(), p.file(nil)} {
		write(t, f.next(), "a part of", 0o400)
		if slices.Contains(endings(), filepath.Ext(f.next())) {
			t.Errorf("runtimes read %s", f.next())
		}
	}
	if _, err := c.Sync(); err != nil {
		t.Error(err)
	}
	if _, err := p.Install(from); err != nil {
		t.Error(err)
	}
	if got := files(t, dir); !slices.Equal(got, []string{DefaultConfName, plugin}) {
		t.Errorf("there is %q", got)
	}
}

// Nobody who reads while it is written ever sees less than a whole file.
func TestReadersSeeWholeFiles(t *testing.T) {
	c := ours(t.TempDir())
	_, err := c.Sync()
	must(t, err)
	other := c
	other.Content = append(bytes.Repeat([]byte(" "), 1<<20), c.Content...)
	done := make(chan error)
	go func() {
		defer close(done)
		for i := range 100 {
			if _, err := []Config{c, other}[i%2].Sync(); err != nil {
				done <- err
				return
			}
		}
	}()
	for {
		select {
		case err := <-done:
			must(t, err)
			return
		default:
		}
		have, err := os.ReadFile(c.path())
		must(t, err)
		if !bytes.Equal(have, c.Content) && !bytes.Equal(have, other.Content) {
			t.Fatalf("a reader saw %d bytes, neither %d nor %d", len(have), len(c.Content), len(other.Content))
		}
	}
}

func TestKeepReportsWhatSortsBefore(t *testing.T) {
	for _, tt := range []struct {
		name, file, text string
		shadowed         bool
	}{
		{"another network", "05-cilium.conflist", `{"plugins":[{"type":"cilium-cni"}]}`, true},
		{"one plugin", "05-bridge.conf", `{"type":"bridge"}`, true},
		{"as JSON", "05-bridge.json", `{"type":"bridge"}`, true},
		{"a broken one", "05-x.conflist", `{`, true},
		{"a link to nowhere", "05-link.conflist", "", true},
		{"another network that sorts behind", "20-flannel.conflist", `{"plugins":[{"type":"flannel"}]}`, false},
		{"by bytes, not by words", "10-overlay.conflist", `{"plugins":[{"type":"flannel"}]}`, false},
		{"no configuration", "05-cilium.conflist.bak", `{"plugins":[{"type":"cilium-cni"}]}`, false},
		{"Multus with ours within", "00-multus.conf", `{"type":"multus","delegates":[{"plugins":[{"type":"overlay-cni"}]}]}`, false},
		{"Multus that names our file", "00-multus.conf", `{"type":"multus-shim","clusterNetwork":"/etc/cni/net.d/10-overlay-cni.conflist"}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := ours(t.TempDir())
			if path := filepath.Join(c.Dir, tt.file); tt.text == "" {
				must(t, os.Symlink("nowhere", path))
			} else {
				write(t, path, tt.text, 0o644)
			}
			changes, err := c.Sync()
			if len(changes) != 1 {
				t.Errorf("ours was not written: %q", changes)
			}
			if !tt.shadowed {
				must(t, err)
				return
			}
			if !errors.Is(err, ErrShadowed) || !strings.Contains(err.Error(), tt.file) || !strings.Contains(err.Error(), c.Dir) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReadOnlyDirectories(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(t.TempDir(), "new")
	write(t, from, "a program", 0o755)
	readOnly(t, dir)
	_, confErr := ours(dir).Sync()
	_, programErr := Program{filepath.Join(dir, plugin)}.Install(from)
	for _, err := range []error{confErr, programErr} {
		if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "write "+dir) || !strings.HasSuffix(err.Error(), ": mount the directory writable") {
			t.Errorf("got %v", err)
		}
	}
}

// What is right needs no writing.
func TestReadOnlyDirectoriesThatAreRight(t *testing.T) {
	dir := t.TempDir()
	from, p := filepath.Join(t.TempDir(), "new"), Program{filepath.Join(dir, plugin)}
	write(t, from, "a program", 0o755)
	_, err := ours(dir).Sync()
	must(t, err)
	_, err = p.Install(from)
	must(t, err)
	readOnly(t, dir)
	if changes, err := ours(dir).Sync(); len(changes) > 0 || err != nil {
		t.Errorf("the configuration: %q, %v", changes, err)
	}
	if changed, err := p.Install(from); changed || err != nil {
		t.Errorf("the program: %v, %v", changed, err)
	}
}

func TestInstall(t *testing.T) {
	const text = "#!/bin/sh\necho new\n"
	for _, tt := range []struct {
		name    string
		prepare func(path string) error
		changed bool
	}{
		{"none", func(string) error { return nil }, true},
		{"the same", func(p string) error { return os.WriteFile(p, []byte(text), 0o755) }, false},
		{"an older one", func(p string) error { return os.WriteFile(p, []byte("#!/bin/sh\necho old\n"), 0o755) }, true},
		{"a part of it", func(p string) error { return os.WriteFile(p, []byte(text[:5]), 0o755) }, true},
		{"the same, which can't be run", func(p string) error { return os.WriteFile(p, []byte(text), 0o644) }, true},
		{"a link to the same", func(p string) error {
			return errors.Join(os.WriteFile(p+".other", []byte(text), 0o755), os.Symlink(p+".other", p))
		}, true},
		{"a link to nowhere", func(p string) error { return os.Symlink("nowhere", p) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from, p := filepath.Join(t.TempDir(), "new"), Program{filepath.Join(t.TempDir(), "bin", plugin)}
			write(t, from, text, 0o400)
			must(t, os.MkdirAll(filepath.Dir(p.Path), 0o755))
			must(t, tt.prepare(p.Path))
			umask := unix.Umask(0o077) // as careful administrators have it
			changed, err := p.Install(from)
			unix.Umask(umask)
			if err != nil || changed != tt.changed {
				t.Errorf("changed %v, %v", changed, err)
			}
			if out, err := exec.Command(p.Path).Output(); err != nil || string(out) != "new\n" {
				t.Errorf("it says %q, %v", out, err)
			}
			if info, err := os.Lstat(p.Path); err != nil || info.Mode() != programMode {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if again, err := p.Install(from); again || err != nil {
				t.Errorf("a second time: %v, %v", again, err)
			}
		})
	}
}

// The kernel refuses to write to a program that runs (ETXTBSY), and one that
// was written to would crash.
func TestInstallWhileTheOldOneRuns(t *testing.T) {
	cat, err := exec.LookPath("cat")
	must(t, err)
	p := Program{filepath.Join(t.TempDir(), plugin)}
	_, err = p.Install(cat)
	must(t, err)
	running := exec.Command(p.Path)
	in, err := running.StdinPipe()
	must(t, err)
	var out bytes.Buffer
	running.Stdout = &out
	must(t, running.Start())
	from := filepath.Join(t.TempDir(), "new")
	write(t, from, "#!/bin/sh\necho new\n", 0o755)
	if _, err := p.Install(from); err != nil {
		t.Error(err)
	}
	_, err = in.Write([]byte("still the old one"))
	must(t, errors.Join(err, in.Close(), running.Wait()))
	if out.String() != "still the old one" {
		t.Errorf("it says %q", &out)
	}
}

func TestInstallNothing(t *testing.T) {
	from := filepath.Join(t.TempDir(), "none")
	p := Program{filepath.Join(t.TempDir(), plugin)}
	if _, err := p.Install(from); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), from) {
		t.Errorf("got %v", err)
	}
	if got := files(t, filepath.Dir(p.Path)); len(got) > 0 {
		t.Errorf("there is %q", got)
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	c, p := ours(dir), Program{filepath.Join(dir, plugin)}
	for path, content := range map[string]string{
		c.path(): "x", c.file().next(): "x", p.Path: "x",
		// Names that the daemon was told before.
		filepath.Join(dir, "05-before.conflist"): string(c.Content),
		filepath.Join(dir, "30-chain.conflist"):  strings.Replace(string(c.Content), "]\n}", `, {"type":"portmap"}]}`, 1),
		// Other people's.
		filepath.Join(dir, "20-flannel.conflist"): "x",
		filepath.Join(dir, "40-other.conflist"):   strings.Replace(string(c.Content), "overlay-cni", "another", 1),
		filepath.Join(dir, "50-copy.bak"):         string(c.Content),
	} {
		write(t, path, content, 0o644)
	}
	want := []string{c.path(), filepath.Join(dir, "05-before.conflist"), filepath.Join(dir, "30-chain.conflist")}
	for i, want := range [][]string{want, nil} {
		if removed, err := c.Remove(); !slices.Equal(removed, want) || err != nil {
			t.Errorf("round %d: removed %q, %v, want %q", i, removed, err, want)
		}
		if removed, err := p.Remove(); removed != (want != nil) || err != nil {
			t.Errorf("round %d: removed the program: %v, %v", i, removed, err)
		}
	}
	if got, want := files(t, dir), []string{"20-flannel.conflist", "40-other.conflist", "50-copy.bak"}; !slices.Equal(got, want) {
		t.Errorf("there is %q, want %q", got, want)
	}
	own := filepath.Join(dir, "60-own.conflist")
	write(t, own, `{"name":"mine","plugins":[{"type":"overlay-cni"}]}`, 0o644)
	if callers, err := c.Callers(); !slices.Equal(callers, []string{own}) || err != nil {
		t.Errorf("%q call the plugin, %v", callers, err)
	}
	if callers, err := ours(filepath.Join(dir, "none")).Callers(); callers != nil || err != nil {
		t.Errorf("of no directory: %q, %v", callers, err)
	}
	if removed, err := ours(filepath.Join(dir, "none")).Remove(); removed != nil || err != nil {
		t.Errorf("of no directory: removed %q, %v", removed, err)
	}
}

// Whatever is in the place of a file, nothing outside is read or changed, and the
// daemon doesn't wait for a pipe.
func TestWhatIsInTheWayIsReplaced(t *testing.T) {
	t.Parallel()
	for what, plant := range map[string]func(outside, path string) error{
		"a symbolic link": os.Symlink,
		"a dangling link": func(outside, path string) error { return os.Symlink(outside+"-none", path) },
		"a hard link":     os.Link,
		"a pipe":          func(_, path string) error { return unix.Mkfifo(path, 0o644) },
	} {
		for _, place := range []string{DefaultConfName, "." + DefaultConfName + ".next"} {
			t.Run(what+" at "+place, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				c := Config{Dir: filepath.Join(dir, "net.d"), Name: DefaultConfName, Content: Conflist("/run/x")}
				outside := filepath.Join(dir, "outside")
				// The right content, so that only the link itself is wrong.
				err := errors.Join(os.Mkdir(c.Dir, 0o755), os.WriteFile(outside, c.Content, 0o644), plant(outside, filepath.Join(c.Dir, place)))
				if err != nil {
					t.Fatal(err)
				}
				before, _ := os.Stat(outside)
				for _, want := range []int{1, 0} {
					if changes, err := c.Sync(); len(changes) != want || err != nil {
						t.Errorf("changes are %v, %v", changes, err)
					}
				}
				if info, err := os.Lstat(c.path()); err != nil || info.Mode() != confMode {
					t.Errorf("it has mode %v, %v", info, err)
				}
				after, err := os.Stat(outside)
				if err != nil || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
					t.Errorf("the file outside was changed, %v", err)
				}
				if _, err := os.Lstat(outside + "-none"); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("a file was made outside: %v", err)
				}
			})
		}
	}
}

// A pipe among the other network configurations blocks nobody.
func TestPipesAmongConfigurations(t *testing.T) {
	t.Parallel()
	c := Config{Dir: t.TempDir(), Name: DefaultConfName, Content: Conflist("/run/x")}
	if err := unix.Mkfifo(filepath.Join(c.Dir, "00-pipe.conf"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sync(); !errors.Is(err, ErrShadowed) {
		t.Errorf("got %v", err)
	}
}
