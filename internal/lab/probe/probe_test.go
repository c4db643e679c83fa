package probe_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab"
	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// patience bounds what should succeed, brief what should fail.
const (
	patience = 10 * time.Second
	brief    = 100 * time.Millisecond
)

// mtu is the wire's.
const mtu = 1500

func TestMain(m *testing.M) { os.Exit(sandboxtest.Main(m)) }

var families = map[string]struct{ segment, nobody string }{
	"IPv4": {"192.168.77.254/24", "192.168.77.200"},
	"IPv6": {"fd00:77::ffff/64", "fd00:77::200"},
}

// network is two hosts, a and b, on one wire.
type network struct {
	ctx    context.Context
	a, b   *lab.Host
	toB    netip.AddrPort // any free port of b
	nobody netip.Addr     // on the wire, but nobody's
}

// onEachFamily runs test on a new network of each family.
func onEachFamily(t *testing.T, test func(*testing.T, network)) {
	t.Helper()
	for name, family := range families {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			l, err := lab.New(lab.Config{Dir: t.TempDir(), Prefix: strings.ToLower(rand.Text()[:6]) + "-", Segments: []netip.Prefix{netip.MustParsePrefix(family.segment)}, MTU: mtu})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { check(t, l.Close()) })
			n := network{ctx: ctx, a: add(t, l, "a"), b: add(t, l, "b"), nobody: netip.MustParseAddr(family.nobody)}
			n.toB = netip.AddrPortFrom(n.b.Addresses()[0], 0)
			test(t, n)
		})
	}
}

func add(t *testing.T, l *lab.Lab, name string) *lab.Host {
	t.Helper()
	h, err := l.AddHost(name)
	check(t, err)
	return h
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUDP(t *testing.T) {
	t.Parallel()
	onEachFamily(t, func(t *testing.T, n network) {
		echo, err := probe.ServeEcho(n.b.Netns(), n.toB)
		check(t, err)
		rtt, err := probe.UDP(n.ctx, n.a.Netns(), echo.Addr)
		if err != nil || rtt <= 0 || rtt > patience {
			t.Errorf("round-trip time %v, %v", rtt, err)
		}
		check(t, echo.Close())
		ctx, cancel := context.WithTimeout(n.ctx, brief)
		defer cancel()
		if _, err := probe.UDP(ctx, n.a.Netns(), echo.Addr); err == nil {
			t.Error("an answer came after the server's end")
		}
	})
}

func TestWhole(t *testing.T) {
	t.Parallel()
	onEachFamily(t, func(t *testing.T, n network) {
		echo, err := probe.ServeEcho(n.b.Netns(), n.toB)
		check(t, err)
		t.Cleanup(func() { check(t, echo.Close()) })
		for _, tt := range []struct {
			size int
			want error
		}{{100, nil}, {mtu, nil}, {mtu + 1, unix.EMSGSIZE}} {
			if err := probe.Whole(n.ctx, n.a.Netns(), echo.Addr, tt.size); !errors.Is(err, tt.want) {
				t.Errorf("%d bytes on a wire of MTU %d: %v, want %v", tt.size, mtu, err, tt.want)
			}
		}
	})
}

// What comes back changed is no answer.
func TestWholeWantsItsOwnBytes(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		t.Run(address, func(t *testing.T) {
			ns := sandboxtest.NewNetns(t)
			var conn *net.UDPConn
			sandboxtest.Do(t, ns, func() (err error) {
				conn, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(address)})
				return err
			})
			defer conn.Close()
			answered := make(chan error, 1)
			go func() { answered <- answerChanged(conn) }()
			ctx, cancel := context.WithTimeout(t.Context(), brief)
			defer cancel()
			err := probe.Whole(ctx, ns, conn.LocalAddr().(*net.UDPAddr).AddrPort(), mtu)
			check(t, <-answered)
			if err == nil || !strings.Contains(err.Error(), "no answer") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// answerChanged sends one datagram back with another last byte.
func answerChanged(conn *net.UDPConn) error {
	buf := make([]byte, mtu)
	size, from, err := conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		return err
	}
	buf[size-1]++
	_, err = conn.WriteToUDPAddrPort(buf[:size], from)
	return err
}

func TestPing(t *testing.T) {
	t.Parallel()
	onEachFamily(t, func(t *testing.T, n network) {
		rtt, err := probe.Ping(n.ctx, n.a.Netns(), n.toB.Addr())
		if err != nil || rtt <= 0 || rtt > patience {
			t.Errorf("round-trip time %v, %v", rtt, err)
		}
		ctx, cancel := context.WithTimeout(n.ctx, brief)
		defer cancel()
		_, err = probe.Ping(ctx, n.a.Netns(), n.nobody)
		if err == nil || !strings.Contains(err.Error(), "no answer from "+n.nobody.String()) {
			t.Errorf("ping to nobody: %v", err)
		}
	})
}

func TestPingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	onEachFamily(t, func(t *testing.T, n network) {
		why := errors.New("changed our mind")
		ctx, cancel := context.WithCancelCause(n.ctx)
		cancel(why)
		if _, err := probe.Ping(ctx, n.a.Netns(), n.nobody); !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
	})
}

func TestTCPReportsTheSource(t *testing.T) {
	t.Parallel()
	onEachFamily(t, func(t *testing.T, n network) {
		mirror, err := probe.ServeMirror(n.b.Netns(), n.toB)
		check(t, err)
		seen, err := probe.TCP(n.ctx, n.a.Netns(), mirror.Addr)
		if err != nil || seen.Source.Addr() != n.a.Addresses()[0] || seen.Connect <= 0 {
			t.Errorf("got %+v, %v; want the source %v", seen, err, n.a.Addresses())
		}
		check(t, mirror.Close())
		if _, err := probe.TCP(n.ctx, n.a.Netns(), mirror.Addr); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("after the server's end: %v", err)
		}
	})
}

func startStream(t *testing.T, n network) *probe.Stream {
	t.Helper()
	echo, err := probe.ServeEcho(n.b.Netns(), n.toB)
	check(t, err)
	t.Cleanup(func() { check(t, echo.Close()) })
	// A wire that was just plugged in may take half a second to carry, and the
	// kernel keeps only so many packets for a neighbour that doesn't answer yet.
	check(t, probe.Eventually(n.ctx, func(ctx context.Context) error {
		_, err := probe.UDP(ctx, n.a.Netns(), echo.Addr)
		return err
	}))
	stream, err := probe.StartStream(n.a.Netns(), echo.Addr)
	check(t, err)
	t.Cleanup(func() { stream.Stop() })
	check(t, stream.Answered(n.ctx, 20))
	return stream
}

func TestStreamOverAGoodWireLosesNothing(t *testing.T) {
	t.Parallel()
	onEachFamily(t, func(t *testing.T, n network) {
		stream := startStream(t, n)
		got := stream.Stop()
		if got.Sent < 20 || got.Lost != 0 || got.Duplicated != 0 || got.Reordered != 0 {
			t.Errorf("got %+v", got)
		}
		if again := stream.Stop(); again != got {
			t.Errorf("the second Stop says %+v, the first %+v", again, got)
		}
	})
}

// The negative control of every "no packet lost": a loss is seen.
func TestStreamSeesALoss(t *testing.T) {
	t.Parallel()
	onEachFamily(t, func(t *testing.T, n network) {
		stream := startStream(t, n)
		check(t, n.b.Unplug())
		ctx, cancel := context.WithTimeout(n.ctx, brief)
		defer cancel()
		if err := stream.Answered(ctx, 20); err == nil {
			t.Error("packets were answered over a cut wire")
		}
		check(t, n.b.PlugIn())
		check(t, stream.Answered(n.ctx, 20))
		if got := stream.Stop(); got.Lost == 0 || got.Gap < brief/2 {
			t.Errorf("got %+v, but packets were lost for %v", got, brief)
		}
	})
}

func TestStreamWithoutAServerLosesAll(t *testing.T) {
	t.Parallel()
	onEachFamily(t, func(t *testing.T, n network) {
		nobody := netip.AddrPortFrom(n.toB.Addr(), 9)
		stream, err := probe.StartStream(n.a.Netns(), nobody)
		check(t, err)
		ctx, cancel := context.WithTimeout(n.ctx, brief)
		defer cancel()
		if err := stream.Answered(ctx, 1); err == nil {
			t.Error("somebody answered")
		}
		if got := stream.Stop(); got.Sent == 0 || got.Lost != got.Sent {
			t.Errorf("got %+v", got)
		}
	})
}

func TestEventually(t *testing.T) {
	tries := 0
	check(t, probe.Eventually(t.Context(), func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	}))
	ctx, cancel := context.WithTimeout(t.Context(), brief)
	defer cancel()
	never := errors.New("never")
	err := probe.Eventually(ctx, func(context.Context) error { return never })
	if !errors.Is(err, never) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
