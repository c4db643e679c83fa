package probe_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox/sandboxtest"
)

// startConnection returns a connection that runs.
func startConnection(t *testing.T, n network) *probe.Connection {
	t.Helper()
	echo, err := probe.ServeTCPEcho(n.b.Netns(), n.toB)
	check(t, err)
	t.Cleanup(func() { check(t, echo.Close()) })
	c, err := probe.StartConnection(n.ctx, n.a.Netns(), echo.Addr)
	check(t, err)
	t.Cleanup(func() { c.Stop() })
	check(t, c.Answered(n.ctx, 5))
	return c
}

func TestConnectionSurvivesACutWire(t *testing.T) {
	t.Parallel()
	onEachFamily(t, func(t *testing.T, n network) {
		c := startConnection(t, n)
		check(t, n.b.Unplug())
		ctx, cancel := context.WithTimeout(n.ctx, brief)
		defer cancel()
		if err := c.Answered(ctx, 5); err == nil {
			t.Error("questions were answered over a cut wire")
		}
		check(t, n.b.PlugIn())
		check(t, c.Answered(n.ctx, 5))
		got := c.Stop()
		if got.Broken != nil || got.Answers < 10 || got.Gap < brief/2 {
			t.Errorf("got %+v", got)
		}
		if again := c.Stop(); again != got {
			t.Errorf("the second Stop says %+v, the first %+v", again, got)
		}
	})
}

// The negative control of every "no connection broken": a reset is seen.
func TestConnectionSeesAReset(t *testing.T) {
	t.Parallel()
	onEachFamily(t, func(t *testing.T, n network) {
		var listener *net.TCPListener
		sandboxtest.Do(t, n.b.Netns(), func() (err error) {
			listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(n.toB))
			return err
		})
		t.Cleanup(func() { listener.Close() })
		served := make(chan error, 1)
		go func() { served <- resetAfter(listener, 5) }()
		c, err := probe.StartConnection(n.ctx, n.a.Netns(), netip.MustParseAddrPort(listener.Addr().String()))
		check(t, err)
		t.Cleanup(func() { c.Stop() })
		check(t, <-served)
		check(t, probe.Eventually(n.ctx, func(context.Context) error {
			if c.Broken() == nil {
				return errors.New("the reset is not seen")
			}
			return nil
		}))
		if got := c.Stop(); !errors.Is(got.Broken, unix.ECONNRESET) {
			t.Errorf("got %+v", got)
		}
	})
}

// resetAfter answers some questions of one client and then resets the connection.
func resetAfter(listener *net.TCPListener, answers int64) error {
	conn, err := listener.AcceptTCP()
	if err != nil {
		return err
	}
	_, err = io.CopyN(conn, conn, answers*8)
	return errors.Join(err, conn.SetLinger(0), conn.Close())
}
