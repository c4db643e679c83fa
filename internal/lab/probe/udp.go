package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// maxDatagram holds what the probes send, with room for probes of large MTUs.
const maxDatagram = 1 << 16

// Echo is a UDP server that sends back what it gets.
type Echo struct {
	*server
	Addr netip.AddrPort
}

// ServeEcho starts an echo server in ns. Port 0 of at means any free one.
func ServeEcho(ns *sandbox.Netns, at netip.AddrPort) (*Echo, error) {
	conn, err := open(ns, func() (*net.UDPConn, error) {
		return net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	})
	if err != nil {
		return nil, fmt.Errorf("serve UDP echo on %s in %s: %w", at, ns.Name(), err)
	}
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &Echo{server: serve(conn, func() { echo(conn) }), Addr: local}, nil
}

// echo answers until conn is closed. A failed answer is a lost packet, which is
// the asker's to notice.
func echo(conn *net.UDPConn) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}
}

// UDP sends one datagram from ns to an echo server and returns the time until
// it came back.
func UDP(ctx context.Context, ns *sandbox.Netns, dst netip.AddrPort) (time.Duration, error) {
	rtt, err := udp(ctx, ns, dst)
	if err != nil {
		return 0, fmt.Errorf("UDP from %s to %s: %w", ns.Name(), dst, err)
	}
	return rtt, nil
}

func udp(ctx context.Context, ns *sandbox.Netns, dst netip.AddrPort) (time.Duration, error) {
	conn, err := open(ns, func() (*net.UDPConn, error) {
		return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
	})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return exchange(ctx, conn, []byte(rand.Text()))
}

// exchange sends a question that only its own answer can match, and returns the
// time until that came.
func exchange(ctx context.Context, conn *net.UDPConn, question []byte) (time.Duration, error) {
	stop, err := interruptible(ctx, conn)
	if err != nil {
		return 0, err
	}
	defer stop()
	rtt, err := ask(conn, question)
	return rtt, timedOut(ctx, err, conn.RemoteAddr().(*net.UDPAddr).AddrPort().Addr())
}

func ask(conn *net.UDPConn, question []byte) (time.Duration, error) {
	answer := make([]byte, maxDatagram)
	start := time.Now()
	if _, err := conn.Write(question); err != nil {
		return 0, err
	}
	for {
		n, err := conn.Read(answer)
		if err != nil {
			return 0, err
		}
		if bytes.Equal(answer[:n], question) {
			return time.Since(start), nil
		}
	}
}
