package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

const patience = 10 * time.Second

// The lab is tested with stand-ins for the programs that it runs: this binary,
// under their names.
var standIns = map[string]func() error{"overlayd": daemonStandIn, "overlay-cni": pluginStandIn}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	standIn := standIns[filepath.Base(os.Args[0])]
	switch {
	case standIn == nil:
		return sandboxtest.Main(m)
	case standIn() != nil:
		return 1
	}
	return 0
}

// daemonStandIn publishes a file and waits for SIGTERM, or does what its last
// argument says.
func daemonStandIn() error {
	fmt.Fprintln(os.Stdout, "arguments", os.Args[1:])
	mode := os.Args[len(os.Args)-1]
	if mode == "fail" {
		return errors.New("as asked for")
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	if mode != "mute" {
		runDir := os.Args[slices.Index(os.Args, "--run-dir")+1]
		if err := os.WriteFile(filepath.Join(runDir, readyFile), nil, 0o644); err != nil {
			return err
		}
	}
	for mode == "stubborn" {
		<-signals
	}
	<-signals
	return nil
}

// pluginStandIn gives every pod one address, and wants prevResult for CHECK.
func pluginStandIn() error {
	stdin, _ := io.ReadAll(os.Stdin)
	switch command := os.Getenv("CNI_COMMAND"); {
	case command == "CHECK" && !strings.Contains(string(stdin), `"prevResult":{`),
		strings.Contains(string(stdin), `"fail":"`+command+`"`):
		_ = json.NewEncoder(os.Stdout).Encode(types.Error{Code: 7, Msg: command + " failed", Details: string(stdin)})
		return errors.New("reported")
	case command == "ADD":
		fmt.Fprintln(os.Stdout, `{"cniVersion":"1.0.0","ips":[{"address":"10.244.1.5/24"},{"address":"fd00::5/64"}]}`)
	}
	return nil
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newLab is a dual-stack lab whose programs are the stand-ins.
func newLab(t *testing.T) *Lab {
	t.Helper()
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	dir := t.TempDir()
	self, err := os.Executable()
	check(t, err)
	for name := range standIns {
		check(t, os.Symlink(self, filepath.Join(dir, name)))
	}
	l, err := New(Config{
		Dir:         filepath.Join(dir, "lab"),
		Segments:    []netip.Prefix{netip.MustParsePrefix("192.168.77.254/24"), netip.MustParsePrefix("fd00:77::ffff/64")},
		Outside:     []netip.Addr{netip.MustParseAddr("203.0.113.1")},
		PodNetworks: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		MTU:         1400,
		Daemon:      filepath.Join(dir, "overlayd"),
		Plugin:      filepath.Join(dir, "overlay-cni"),
		DaemonArgs:  []string{"--log-level", "debug"},
	})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	return l
}

func addHost(t *testing.T, l *Lab, name string) *Host {
	t.Helper()
	h, err := l.AddHost(name)
	check(t, err)
	return h
}

func TestHostIsConnected(t *testing.T) {
	h := addHost(t, newLab(t), "host-a")
	var eth0 *net.Interface
	check(t, h.Netns().Do(func() (err error) {
		eth0, err = net.InterfaceByName("eth0")
		return err
	}))
	if eth0.MTU != 1400 || eth0.Flags&net.FlagUp == 0 {
		t.Errorf("eth0 is %+v", eth0)
	}
	for _, dst := range []string{"0.0.0.0/0", "::/0"} {
		if has, err := h.HasRoute(netip.MustParsePrefix(dst)); err != nil || !has {
			t.Errorf("route to %s: %v, %v", dst, has, err)
		}
	}
	if has, err := h.HasRoute(h.Subnets()[0]); err != nil || has {
		t.Errorf("a route to the pods without overlayd: %v, %v", has, err)
	}
	if got := fmt.Sprint(h.Addresses(), h.Subnets()); got != "[192.168.77.1 fd00:77::1] [10.244.1.0/24]" {
		t.Errorf("got %s", got)
	}
}

func TestRemovedNameIsFreeAtOnce(t *testing.T) {
	l := newLab(t)
	for i := range 3 {
		h := addHost(t, l, "host-a")
		if got, want := h.Addresses()[0].As4()[3], byte(i+1); got != want {
			t.Errorf("host number %d, want %d", got, want)
		}
		if _, err := l.AddHost("host-a"); err == nil {
			t.Error("a second host-a was accepted")
		}
		check(t, h.Remove())
	}
}

func TestRegister(t *testing.T) {
	l := newLab(t)
	check(t, l.Register(addHost(t, l, "host-a"), addHost(t, l, "host-b")))
	got, err := os.ReadFile(l.RegistryFile())
	check(t, err)
	want := `nodes:
    - name: host-a
      addresses: [192.168.77.1, 'fd00:77::1']
      podSubnets: [10.244.1.0/24]
    - name: host-b
      addresses: [192.168.77.2, 'fd00:77::2']
      podSubnets: [10.244.2.0/24]
`
	if string(got) != want {
		t.Errorf("got\n%s", got)
	}
}

func TestDaemonLife(t *testing.T) {
	l, ctx := newLab(t), testContext(t)
	h := addHost(t, l, "host-a")
	d, err := h.StartDaemon(ctx, "--mtu", "1300")
	check(t, err)
	check(t, d.Log.Wait(ctx, fmt.Sprintf("arguments [run --node-name host-a --run-dir %s --registry-file %s --log-level debug --mtu 1300]", h.RunDir(), l.RegistryFile())))
	check(t, d.Stop(ctx))
	check(t, d.Kill())
	d, err = h.StartDaemon(ctx)
	check(t, err)
	check(t, d.Kill())
	if err := d.Stop(ctx); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Stop after Kill: %v", err)
	}
}

func TestDaemonThatFailsShowsItsLog(t *testing.T) {
	h := addHost(t, newLab(t), "host-a")
	_, err := h.StartDaemon(testContext(t), "fail")
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "arguments [run") {
		t.Errorf("got %v", err)
	}
}

func TestDaemonWaitsAreBounded(t *testing.T) {
	h := addHost(t, newLab(t), "host-a")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := h.StartDaemon(ctx, "mute"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a daemon that publishes nothing: %v", err)
	}
	d, err := h.StartDaemon(testContext(t), "stubborn")
	check(t, err)
	if err := d.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a daemon that ignores SIGTERM: %v", err)
	}
	check(t, d.Kill())
}

func TestPodLife(t *testing.T) {
	h, ctx := addHost(t, newLab(t), "host-a"), testContext(t)
	p, err := h.AddPod(ctx, PodSpec{Name: "pod"})
	check(t, err)
	if got := fmt.Sprint(p.Addresses); got != "[10.244.1.5 fd00::5]" {
		t.Errorf("addresses %s", got)
	}
	check(t, p.Check(ctx))
	check(t, p.Detach(ctx))
	check(t, p.Delete(ctx))
	if len(h.Pods()) != 0 {
		t.Error("the host still has the pod")
	}
}

func TestFailedPodLeavesNothing(t *testing.T) {
	h := addHost(t, newLab(t), "host-a")
	before, err := os.ReadDir("/run/netns")
	check(t, err)
	_, err = h.AddPod(testContext(t), PodSpec{Name: "pod", Config: h.PluginConfig(map[string]any{"fail": "ADD"})})
	var reported *types.Error
	if !errors.As(err, &reported) || reported.Code != 7 {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadDir("/run/netns"); err != nil || len(after) != len(before) {
		t.Errorf("namespaces %v (%v), before %v", after, err, before)
	}
}
