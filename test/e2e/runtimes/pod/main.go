// Pod is the only program of the containers in the tests: until it is told to
// end it answers TCP with the caller's address, and UDP with what it got.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
)

const (
	address     = ":8080"
	maxDatagram = 1 << 16
)

func main() { os.Exit(run(os.Stderr)) }

func run(stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func serve(ctx context.Context) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	go mirror(listener)
	go echo(conn)
	<-ctx.Done()
	return nil
}

// mirror serves until the process ends.
func mirror(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, conn.RemoteAddr().String())
		_ = conn.Close()
	}
}

func echo(conn net.PacketConn) {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(buf[:n], from)
	}
}
