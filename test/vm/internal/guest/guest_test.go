package guest_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
	"github.com/overlay-cni/overlay-cni/test/vm/internal/guest"
)

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

func newGuest(t *testing.T) (context.Context, *guest.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	c := guest.Here()
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Hello(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx, c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestProbes(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		t.Run(address, func(t *testing.T) {
			ctx, c := newGuest(t)
			ns := sandboxtest.NewNetns(t).Name()
			a := netip.MustParseAddr(address)
			target := func(port uint16, size int) guest.Target {
				return guest.Target{From: ns, To: netip.AddrPortFrom(a, port), Size: size}
			}
			if _, err := c.Connect(ctx, target(guest.MirrorPort, 0)); err == nil {
				t.Error("a mirror answered that was not started")
			}
			must(t, c.Serve(ctx, guest.Servers{Netns: ns, Addresses: []netip.Addr{a}}))
			_, err := c.Ping(ctx, target(0, 0))
			must(t, err)
			source, err := c.Connect(ctx, target(guest.MirrorPort, 0))
			if err != nil || source != a {
				t.Errorf("the mirror saw %s, %v", source, err)
			}
			_, err = c.Transfer(ctx, target(guest.DigestPort, 1<<20))
			must(t, err)
			for size, fits := range map[int]bool{100: true, 1500: true, 1 << 17: false} {
				if refused, err := c.Echo(ctx, target(guest.EchoPort, size)); err != nil || (refused == "") != fits {
					t.Errorf("%d bytes: refused %q, %v", size, refused, err)
				}
			}
			number, err := c.StartStream(ctx, target(guest.EchoPort, 0))
			must(t, err)
			if counts, err := c.StopStream(ctx, number); err != nil || counts.Sent == 0 || counts.Lost != 0 {
				t.Errorf("stream: %+v, %v", counts, err)
			}
		})
	}
}

func TestPrograms(t *testing.T) {
	ctx, c := newGuest(t)
	out, err := c.Exec(ctx, guest.Command{Args: []string{"sh", "-c", `cat; echo "$X" >&2; exit 3`}, Env: []string{"X=y"}, Stdin: []byte("z")})
	if err != nil || string(out.Stdout) != "z" || string(out.Stderr) != "y\n" || out.Code != 3 {
		t.Errorf("got %+v, %v", out, err)
	}
	if _, err := c.Run(ctx, "sh", "-c", "echo reason >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "exit code 3: reason") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Run(ctx, "no-such-program"); err == nil {
		t.Error("a program ran that isn't there")
	}
	file := filepath.Join(t.TempDir(), "folder", "file")
	must(t, c.WriteFile(ctx, file, "text"))
	if text, err := c.Run(ctx, "cat", file); err != nil || text != "text" {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestDaemons(t *testing.T) {
	ctx, c := newGuest(t)
	must(t, os.MkdirAll(filepath.Dir(guest.LogOf("sh")), 0o755))
	must(t, c.Start(ctx, "sh", "-c", "exec sleep 60"))
	how, err := c.End(ctx, "sh", unix.SIGKILL)
	if err != nil || how != "signal: killed" {
		t.Errorf("got %q, %v", how, err)
	}
	if _, err := c.End(ctx, "sh", unix.SIGKILL); err == nil {
		t.Error("it ended twice")
	}
}

// Requests to a machine that has ended or hangs fail.
func TestNoAnswer(t *testing.T) {
	ctx, c := newGuest(t)
	short, cancel := context.WithTimeoutCause(ctx, 50*time.Millisecond, errors.New("too late"))
	defer cancel()
	if _, err := c.Run(short, "sleep", "2"); err == nil || !strings.Contains(err.Error(), "too late") {
		t.Errorf("got %v", err)
	}
	must(t, c.Close())
	if err := c.Hello(ctx); !errors.Is(err, guest.ErrGone) {
		t.Errorf("got %v", err)
	}
}
