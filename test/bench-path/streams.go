package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// chunk is how much a stream writes and reads at once: more gets no faster.
const chunk = 128 << 10

// streams sends over n TCP connections as fast as it can. It counts what the receiver
// reads, in Gbit/s, and the CPU time of the machine for it, in seconds for a GB.
func streams(p path, d time.Duration, n int) ([]float64, error) {
	listener, at, err := serve(p, unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer unix.Close(listener)
	var c crew
	var received atomic.Uint64
	for range n {
		c.start(p.server.Do, func() error { return receive(listener, &c.stop, &received) })
	}
	conns, err := dialAll(p, at, n)
	defer closeAll(conns)
	if err != nil {
		_ = c.end(append(conns, listener)...)
		return nil, err
	}
	for _, fd := range conns {
		c.start(p.client.Do, func() error { return send(fd, &c.stop) })
	}
	bytes := during(d, received.Load)
	if err := c.end(append(conns, listener)...); err != nil {
		return nil, err
	}
	if bytes.n == 0 {
		return nil, fmt.Errorf("nothing arrived at %s in %s", p.addr, bytes.took)
	}
	return []float64{bytes.perSecond() * 8 / 1e9, bytes.cpu / (float64(bytes.n) / 1e9)}, nil
}

// dialAll opens n connections. With an error it returns those that it opened before.
func dialAll(p path, at unix.Sockaddr, n int) (conns []int, err error) {
	err = p.client.Do(func() error {
		for range n {
			fd, err := dial(unix.SOCK_STREAM, p.addr, at)
			if err != nil {
				return fmt.Errorf("connect to %s: %w", p.addr, err)
			}
			conns = append(conns, fd)
		}
		return nil
	})
	return conns, err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// send writes until the end.
func send(fd int, stop *atomic.Bool) error {
	buf := make([]byte, chunk)
	for !stop.Load() {
		if err := write(fd, buf); err != nil && !timedOut(err) {
			return err
		}
	}
	return nil
}

// receive takes one connection and counts what it reads.
func receive(listener int, stop *atomic.Bool, count *atomic.Uint64) error {
	fd, err := accept(listener, stop)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, chunk)
	for !stop.Load() {
		n, err := read(fd, buf)
		if n == 0 && !timedOut(err) {
			return err
		}
		count.Add(uint64(n))
	}
	return nil
}
