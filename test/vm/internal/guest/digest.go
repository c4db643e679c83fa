package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// serveDigest answers each TCP client with the SHA-256 sum of what it sent.
func serveDigest(n *sandbox.Netns, at netip.AddrPort) error {
	var listener *net.TCPListener
	err := n.Do(func() (err error) {
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				go digest(conn)
			}
		}
	}()
	return nil
}

// digest drops errors: the client notices them.
func digest(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	sum := sha256.New()
	if _, err := io.Copy(sum, conn); err == nil {
		_, _ = conn.Write(sum.Sum(nil))
	}
}

var errCorrupted = errors.New("what arrived is not what was sent")

// transfer sends t.Size bytes, none like another, to such a server.
func transfer(ctx context.Context, n *sandbox.Netns, t Target) error {
	deadline, _ := ctx.Deadline()
	dialer := net.Dialer{Deadline: deadline}
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, "tcp", t.To.String())
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	sum := sha256.New()
	noise := io.LimitReader(rand.NewChaCha8([32]byte{}), int64(t.Size))
	if _, err := io.Copy(io.MultiWriter(conn, sum), noise); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && !bytes.Equal(answer, sum.Sum(nil)) {
		err = errCorrupted
	}
	return err
}
