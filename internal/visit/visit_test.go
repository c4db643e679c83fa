//go:build amd64 || arm64

package visit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// lost is set for a process that is to lose its way home.
const lost = "VISIT_TEST_LOST"

func TestMain(m *testing.M) {
	if os.Getenv(lost) != "" {
		os.Exit(loseTheWay())
	}
	os.Exit(sandboxtest.Main(m))
}

const (
	forward4 = "/proc/sys/net/ipv4/ip_forward"
	forward6 = "/proc/sys/net/ipv6/conf/all/forwarding"
	ttl      = "/proc/sys/net/ipv4/ip_default_ttl"
)

// place is a network namespace, and the one that the thread is in.
type place struct {
	away, home int // file descriptors
	name       string
}

func newPlace(t *testing.T) place {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	ns := sandboxtest.NewNetns(t)
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = home.Close() })
	return place{ns.FD(), int(home.Fd()), netns(t, int(home.Fd()))}
}

// netns names the network namespace that a file descriptor is of.
func netns(t *testing.T, fd int) string {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(s.Ino)
}

// isBack fails the test if the thread is elsewhere, or more files are open.
func (p place) isBack(t *testing.T, open int) {
	t.Helper()
	now, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	if got := netns(t, int(now.Fd())); got != p.name {
		t.Errorf("the thread is in %s, it was in %s", got, p.name)
	}
	if got := openFiles(t); got != open+1 { // now
		t.Errorf("%d files are open, there were %d", got-1, open)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestSocket(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []File
	}{
		{"no files", nil},
		{"IPv4", []File{{Path: forward4, Content: "1"}}},
		{"IPv6", []File{{Path: forward6, Content: "1"}}},
		{"both", []File{{Path: forward4, Content: "1"}, {Path: forward6, Content: "1"}}},
		{"one that is read, and right", []File{{Path: ttl, Content: "64", Read: true}, {Path: forward4, Content: "1"}}},
		{"one that isn't there", []File{{Path: "/proc/sys/none", Content: "1"}, {Path: forward6, Content: "1"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			read := func() (all string) {
				for _, f := range tt.files {
					have, err := os.ReadFile(f.Path)
					if !errors.Is(err, fs.ErrNotExist) {
						all += fmt.Sprintln(f.Path, string(bytes.TrimSpace(have)), err)
					}
				}
				return all
			}
			want := ""
			for _, f := range tt.files {
				if f.Path != "/proc/sys/none" {
					want += fmt.Sprintln(f.Path, f.Content, nil)
				}
			}
			atHome, before := read(), openFiles(t)
			socket, err := Socket(p.away, p.home, tt.files)
			if err != nil {
				t.Fatal(err)
			}
			p.isBack(t, before+1)
			where, err := unix.IoctlRetInt(socket, unix.SIOCGSKNS)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := netns(t, where), netns(t, p.away); got != want {
				t.Errorf("the socket is in %s, want %s", got, want)
			}
			if err := errors.Join(unix.Close(where), unix.Close(socket)); err != nil {
				t.Error(err)
			}
			if now := read(); now != atHome {
				t.Errorf("at home it is %q, it was %q", now, atHome)
			}
			if err := unix.Setns(p.away, unix.CLONE_NEWNET); err != nil {
				t.Fatal(err)
			}
			there := read()
			if err := unix.Setns(p.home, unix.CLONE_NEWNET); err != nil {
				t.Fatal(err)
			}
			if there != want {
				t.Errorf("there it is %q, want %q", there, want)
			}
		})
	}
}

// Whatever goes wrong, the thread is back, and nothing is left open.
func TestSocketFails(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.WriteFile(closed, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		where func(place) int
		files []File
		want  error
		path  string
	}{
		{"no file descriptor", func(place) int { return 9999 }, []File{{Path: forward4, Content: "1"}}, unix.EBADF, ""},
		{"no network namespace", func(place) int { return 0 }, []File{{Path: forward4, Content: "1"}}, unix.EINVAL, ""},
		{"a folder", nil, []File{{Path: closed, Content: "1"}, {Path: "/proc", Content: "1"}}, unix.EISDIR, "/proc"},
		{"a folder to read", nil, []File{{Path: "/proc", Content: "1", Read: true}}, unix.EISDIR, "/proc"},
		{"a value that can't be", nil, []File{{Path: forward4, Content: "yes"}, {Path: forward6, Content: "1"}}, unix.EINVAL, forward4},
		{"a path with a zero", nil, []File{{Path: "/proc\x00", Content: "1"}}, unix.EINVAL, "/proc"},
		{"another value", nil, []File{{Path: forward4, Content: "1", Read: true}}, ErrDiffers, forward4},
		{"a longer value", nil, []File{{Path: ttl, Content: "6", Read: true}}, ErrDiffers, ttl},
		{"a shorter value", nil, []File{{Path: ttl, Content: "640", Read: true}}, ErrDiffers, ttl},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			away := p.away
			if tt.where != nil {
				away = tt.where(p)
			}
			before := openFiles(t)
			fd, err := Socket(away, p.home, tt.files)
			if fd != -1 || !errors.Is(err, tt.want) || !strings.Contains(fmt.Sprint(err), tt.path) {
				t.Errorf("got %d and %v, want %v about %q", fd, err, tt.want, tt.path)
			}
			p.isBack(t, before)
		})
	}
}

// A thread that can't come back must run nothing any more.
func TestNoWayHome(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{lost + "=1"}
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 || len(out) > 0 {
		t.Errorf("the process ended with %d (%v) and said %q, want 1 and nothing", code, err, out)
	}
}

// loseTheWay returns another exit code than the process ends with in Socket.
func loseTheWay() int {
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return 2
	}
	_, _ = Socket(int(here.Fd()), 9999, nil)
	return 3
}
