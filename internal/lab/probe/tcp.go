package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// Mirror is a server that tells each client the address it came from.
type Mirror struct {
	*server
	Addr netip.AddrPort
}

// ServeMirror starts a mirror in ns, by TCP. Port 0 of at means any free one.
func ServeMirror(ns *sandbox.Netns, at netip.AddrPort) (*Mirror, error) {
	listener, err := open(ns, func() (*net.TCPListener, error) {
		return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	})
	if err != nil {
		return nil, fmt.Errorf("serve TCP on %s in %s: %w", at, ns.Name(), err)
	}
	local, err := netip.ParseAddrPort(listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return &Mirror{server: serve(listener, func() { mirror(listener) }), Addr: local}, nil
}

// mirror serves until listener is closed, one client after the other.
func mirror(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = io.WriteString(conn, conn.RemoteAddr().String())
			_ = conn.Close()
		}
	}
}

// Seen is a mirror's answer.
type Seen struct {
	Source  netip.AddrPort // the client's address, as the server saw it
	Connect time.Duration  // how long the handshake took
}

// TCP connects from ns to a mirror.
func TCP(ctx context.Context, ns *sandbox.Netns, dst netip.AddrPort) (Seen, error) {
	seen, err := tcp(ctx, ns, dst)
	if err != nil {
		return Seen{}, fmt.Errorf("TCP from %s to %s: %w", ns.Name(), dst, err)
	}
	return seen, nil
}

func tcp(ctx context.Context, ns *sandbox.Netns, dst netip.AddrPort) (Seen, error) {
	dialer := net.Dialer{Deadline: deadline(ctx)}
	start := time.Now()
	// With a literal address, the dialer opens the socket in this goroutine.
	conn, err := open(ns, func() (net.Conn, error) { return dialer.DialContext(ctx, "tcp", dst.String()) })
	if err != nil {
		return Seen{}, err
	}
	defer conn.Close()
	return look(ctx, conn, dst.Addr(), time.Since(start))
}

// look reads the answer of the mirror at dst, to which connecting took a while.
func look(ctx context.Context, conn net.Conn, dst netip.Addr, took time.Duration) (Seen, error) {
	seen := Seen{Connect: took}
	stop, err := interruptible(ctx, conn)
	if err != nil {
		return Seen{}, err
	}
	defer stop()
	text, err := io.ReadAll(conn)
	if err != nil {
		return Seen{}, timedOut(ctx, err, dst)
	}
	seen.Source, err = netip.ParseAddrPort(string(text))
	return seen, err
}
