package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/pkg/cnifiles"
)

// The network configuration is there when pods can be connected and not before,
// is put back when somebody removes or breaks it, and stays when the daemon
// ends: without it kubelet gives a host no pods.
func TestDaemonKeepsTheNetworkConfiguration(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 2), withPatience(t)
	h := f.hosts[0]
	dir := filepath.Join(t.TempDir(), "net.d")
	path := filepath.Join(dir, cnifiles.DefaultConfName)
	f.register(entries(f.hosts[1])) // which h is not
	d := f.launch(h, "--cni-conf-dir", dir, "--resync", "1s")
	absent := func(reason string) {
		t.Helper()
		f.must(d.Log.Wait(ctx, reason))
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("pods are let in on a host that %s: %v", reason, err)
		}
	}
	absent("is not in the registry")
	// An unmanaged device has the bridge's name.
	inTheWay := f.installation(h).foreign("cni0", "peer")
	f.register(entries(f.hosts...))
	absent("the name belongs to another device")
	f.must(h.Handle().LinkDel(inTheWay))
	right := func(context.Context) error {
		have, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(have, cnifiles.Conflist(h.RunDir())) {
			err = fmt.Errorf("the file is %q", have)
		}
		return err
	}
	f.eventually(ctx, right)
	f.published(h) // comes before, so that a pod made now needs not wait
	for what, spoil := range map[string]func() error{
		"removed":  func() error { return os.Remove(path) },
		"cut":      func() error { return os.Truncate(path, 10) },
		"replaced": func() error { return os.WriteFile(path, []byte(`{"plugins":[{"type":"bridge"}]}`), 0o600) },
	} {
		f.must(spoil())
		if right(ctx) == nil {
			t.Errorf("%s: nothing to mend", what)
		}
		f.eventually(ctx, right)
	}
	f.stop(ctx, h)
	f.must(right(ctx))
}

// Another network's file that sorts before ours gets all pods. The host is ready,
// because nothing of ours is wrong, and its health report names the file.
func TestDaemonReportsAnEarlierNetworkConfiguration(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 1), withPatience(t)
	h, dir := f.hosts[0], t.TempDir()
	foreign := filepath.Join(dir, "05-other.conflist")
	f.must(os.WriteFile(foreign, []byte(`{"plugins":[{"type":"bridge"}]}`), 0o600))
	f.launch(h, "--cni-conf-dir", dir, "--resync", "1s", "--health-address", "127.0.0.1:9479")
	says := func(text string) func(context.Context) error {
		return func(ctx context.Context) error { return f.readiness(ctx, h, text) }
	}
	f.eventually(ctx, says("network: degraded since"))
	f.must(says("05-other.conflist in " + dir)(ctx))
	f.must(os.Remove(foreign))
	f.eventually(ctx, says("network: ok"))
}

// readiness asks the host's daemon as kubelet does. The connection is made here,
// on the thread that is in the namespace: http.Client would use another one.
func (f *fleet) readiness(ctx context.Context, h *lab.Host, want string) error {
	return h.Netns().Do(func() error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:9479")
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /readyz HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		answer, err := io.ReadAll(conn)
		if err == nil && (!bytes.Contains(answer, []byte(" 200 OK")) || !bytes.Contains(answer, []byte(want))) {
			err = fmt.Errorf("it says %q", answer)
		}
		return err
	})
}

// The runtime reads the directory at any time, so what somebody does there is mended,
// or reported, at once and not at the next resync. So is the file that the plugin reads.
func TestDaemonWatchesItsFiles(t *testing.T) {
	t.Parallel()
	f, ctx := newIdleFleet(t, 1, withHealth), withPatience(t) // without a resync
	h := f.hosts[0]
	dir := filepath.Join(t.TempDir(), "net.d")
	conflist, published := filepath.Join(dir, cnifiles.DefaultConfName), filepath.Join(h.RunDir(), "node.json")
	foreign := filepath.Join(dir, "05-other.conflist")
	f.start(ctx, h, "--cni-conf-dir", dir)
	right := func(context.Context) error {
		var errs []error
		for path, want := range map[string]string{conflist: string(cnifiles.Conflist(h.RunDir())), published: `"bridge": "cni0"`} {
			if have, err := os.ReadFile(path); err != nil || !strings.Contains(string(have), want) {
				errs = append(errs, fmt.Errorf("%s is %q, %w", path, have, err))
			}
		}
		return errors.Join(errs...)
	}
	f.must(right(ctx))
	for _, tt := range []struct {
		name  string
		spoil func() error
	}{
		{"the configuration removed", func() error { return os.Remove(conflist) }},
		{"the configuration changed", func() error { return os.WriteFile(conflist, []byte("{}"), 0o600) }},
		{"the directory removed", func() error { return os.RemoveAll(dir) }},
		{"changed in the new directory", func() error { return os.WriteFile(conflist, []byte("{}"), 0o600) }},
		{"the directory mounted over", func() error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "") }},
		{"changed in the mounted directory", func() error { return os.WriteFile(conflist, []byte("{}"), 0o600) }},
		{"the directory as it was", func() error { return errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(conflist)) }},
		{"the published state removed", func() error { return os.Remove(published) }},
		{"the published state damaged", func() error { return os.WriteFile(published, []byte("{"), 0o600) }},
		{"the run directory removed", func() error { return os.RemoveAll(h.RunDir()) }},
		{"damaged in the new run directory", func() error { return os.WriteFile(published, []byte("{"), 0o600) }},
	} {
		begin := time.Now()
		f.must(tt.spoil())
		f.eventually(ctx, right)
		t.Logf("%s: right after %s", tt.name, time.Since(begin))
	}
	f.must(os.WriteFile(foreign, []byte(`{"plugins":[{"type":"bridge"}]}`), 0o600))
	f.eventually(ctx, func(ctx context.Context) error {
		return says(ctx, h, "/readyz", http.StatusOK, "network: degraded since ", "05-other.conflist in "+dir)
	})
	f.must(os.Remove(foreign))
	f.eventuallyReady(ctx, h)
}
