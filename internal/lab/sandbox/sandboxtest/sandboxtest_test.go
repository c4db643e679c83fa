package sandboxtest

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// where tells namespaces apart, of the calling thread.
func where(t *testing.T) string {
	t.Helper()
	id, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestDoIsInsideAndTheCallerIsNot(t *testing.T) {
	ns := NewNetns(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := where(t)
	var inside string
	var links []net.Interface
	Do(t, ns, func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		links, err = net.Interfaces()
		return err
	})
	if after := where(t); after != before || inside == before {
		t.Errorf("inside %s, before %s, after %s", inside, before, after)
	}
	if len(links) != 1 || links[0].Flags&net.FlagUp == 0 {
		t.Errorf("links %v: want lo alone, up", links)
	}
}

func TestDoPassesErrorsOn(t *testing.T) {
	ns := NewNetns(t)
	if err := ns.Do(func() error { return unix.ENXIO }); !errors.Is(err, unix.ENXIO) {
		t.Errorf("got %v", err)
	}
	if err := ns.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("a function that ended its goroutine went unnoticed")
	}
}

// Threads that were in another namespace must not come back to other
// goroutines.
func TestThreadsDontLeak(t *testing.T) {
	ns, here := NewNetns(t), where(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := ns.Do(func() error { return nil }); err != nil {
				t.Error(err)
			}
			if id, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || id != here {
				t.Errorf("a goroutine is in %s (%v), not in %s", id, err, here)
			}
		})
	}
	wg.Wait()
	if id, err := os.Readlink("/proc/self/ns/net"); err != nil || id != here {
		t.Errorf("the main thread is in %s (%v), not in %s", id, err, here)
	}
}

func TestHandleAndCommandsAreInside(t *testing.T) {
	ns := NewNetns(t)
	h, err := ns.Handle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "only-here"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName("only-here"); err == nil {
		t.Error("the link is in the test's own namespace")
	}
	var out bytes.Buffer
	cmd := exec.Command("cat", "/proc/net/dev")
	cmd.Stdout = &out
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "only-here") {
		t.Errorf("the command (%v) does not see the link:\n%s", err, &out)
	}
}

func TestCreateTwiceIsRefused(t *testing.T) {
	ns := NewNetns(t)
	if _, err := sandbox.CreateNetns(ns.Name()); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	again, err := sandbox.OpenNetns(ns.Path())
	if err != nil {
		t.Fatalf("the first one is gone: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestDeleteIsIdempotentByName(t *testing.T) {
	ns, err := sandbox.CreateNetns("short-lived")
	if err != nil {
		t.Fatal(err)
	}
	other, err := sandbox.OpenNetns(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*sandbox.Netns{ns, other} {
		if err := n.Delete(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(ns.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", ns.Path(), err)
	}
}

func TestOpenNamesThePath(t *testing.T) {
	if _, err := sandbox.OpenNetns("/run/netns/none"); err == nil || !strings.Contains(err.Error(), "/run/netns/none") {
		t.Errorf("got %v", err)
	}
}

func TestReport(t *testing.T) {
	tests := []struct {
		name string
		err  error
		code int
		want string
	}{
		{"tests failed", &sandbox.ExitError{Code: 2}, 2, ""},
		{"root without namespaces fails", &sandbox.NotAllowedError{UID: 0, Cause: syscall.EPERM}, 1, "--- FAIL"},
		{"users without namespaces skip", &sandbox.NotAllowedError{UID: 1000, Cause: syscall.EPERM}, 0, "--- SKIP"},
		{"anything else fails", errors.New("no /run"), 1, "no /run"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if code := report(&out, tt.err); code != tt.code || !strings.Contains(out.String(), tt.want) {
				t.Errorf("code %d, output %q", code, &out)
			}
		})
	}
}
