package main

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A request is one byte, and so is the response.

// requests measures a round trip by TCP, in microseconds.
func requests(p path, d time.Duration) ([]float64, error) {
	return roundTrips(p, d, unix.SOCK_STREAM, answerConnection)
}

// datagramRequests is the same by UDP.
func datagramRequests(p path, d time.Duration) ([]float64, error) {
	return roundTrips(p, d, unix.SOCK_DGRAM, answerDatagrams)
}

// serve opens the server's socket.
func serve(p path, kind int) (fd int, at unix.Sockaddr, err error) {
	err = p.server.Do(func() error { fd, at, err = listen(kind, p.addr); return err })
	if err != nil {
		err = fmt.Errorf("listen on %s: %w", p.addr, err)
	}
	return fd, at, err
}

// roundTrips asks over one connection, again and again.
func roundTrips(p path, d time.Duration, kind int, answer func(fd int, stop *atomic.Bool) error) ([]float64, error) {
	server, at, err := serve(p, kind)
	if err != nil {
		return nil, err
	}
	defer unix.Close(server)
	var c crew
	c.start(p.server.Do, func() error { return answer(server, &c.stop) })
	var took float64
	err = p.client.Do(func() error {
		fd, err := dial(kind, p.addr, at)
		if err != nil {
			return fmt.Errorf("connect to %s: %w", p.addr, err)
		}
		defer unix.Close(fd)
		took, err = timeEach(d, func() error { return ask(fd) })
		return err
	})
	if err = errors.Join(err, c.end(server)); err != nil {
		return nil, err
	}
	return []float64{took}, nil
}

// timeEach repeats a transaction for d, after a warm-up, and returns the mean time of
// one in microseconds.
func timeEach(d time.Duration, transaction func() error) (float64, error) {
	for end := time.Now().Add(d / warmUp); time.Now().Before(end); {
		if err := transaction(); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	for n := 1; ; n++ {
		if err := transaction(); err != nil {
			return 0, err
		}
		if took := time.Since(start); took >= d {
			return took.Seconds() * 1e6 / float64(n), nil
		}
	}
}

// ask sends a request and waits for the response.
func ask(fd int) error {
	var b [1]byte
	if err := write(fd, b[:]); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	if n, err := read(fd, b[:]); err != nil || n != 1 {
		return fmt.Errorf("%d bytes of a response of one, within %s: %w", n, patience, err)
	}
	return nil
}

// answerConnection takes one connection and answers until its end.
func answerConnection(listener int, stop *atomic.Bool) error {
	fd, err := accept(listener, stop)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return answerAll(fd)
}

// answerAll answers until there is nothing more to read.
func answerAll(fd int) error {
	var b [1]byte
	for {
		n, err := read(fd, b[:])
		if err == nil && n > 0 {
			err = write(fd, b[:n])
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

// answerDatagrams answers who asks first.
func answerDatagrams(fd int, stop *atomic.Bool) error {
	var b [1]byte
	var from unix.Sockaddr
	err := again(func() (err error) { _, from, err = unix.Recvfrom(fd, b[:], 0); return err })
	if err == nil {
		// A socket that knows its peer needs no address in each call.
		err = unix.Connect(fd, from)
	}
	if err == nil {
		err = write(fd, b[:])
	}
	for err == nil && !stop.Load() {
		if _, err = read(fd, b[:]); err == nil {
			err = write(fd, b[:])
		}
	}
	return err
}

// connects measures connect, request, response and close, in microseconds. The server
// closes first, so that the client's port can be used again at once.
func connects(p path, d time.Duration) ([]float64, error) {
	listener, at, err := serve(p, unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer unix.Close(listener)
	var c crew
	c.start(p.server.Do, func() error { return answerEach(listener, &c.stop) })
	var took float64
	err = p.client.Do(func() (err error) {
		took, err = timeEach(d, func() error { return visit(p, at) })
		return err
	})
	if err = errors.Join(err, c.end(listener)); err != nil {
		return nil, err
	}
	return []float64{took}, nil
}

func visit(p path, at unix.Sockaddr) error {
	fd, err := dial(unix.SOCK_STREAM, p.addr, at)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", p.addr, err)
	}
	defer unix.Close(fd)
	if err := ask(fd); err != nil {
		return err
	}
	var b [1]byte
	if _, err := read(fd, b[:]); err != nil {
		return fmt.Errorf("wait for the server's end of the connection: %w", err)
	}
	return nil
}

// answerEach takes one connection after the other, answers one request and closes.
func answerEach(listener int, stop *atomic.Bool) error {
	var b [1]byte
	for !stop.Load() {
		fd, err := accept(listener, stop)
		if err != nil {
			return err
		}
		_, err = read(fd, b[:])
		if err == nil {
			err = write(fd, b[:])
		}
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return err
		}
	}
	return nil
}
