package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// defaultWait bounds a probe whose context has no deadline.
const defaultWait = 5 * time.Second

// open calls op inside ns. Sockets stay in the namespace they were made in.
func open[T any](ns *sandbox.Netns, op func() (T, error)) (opened T, err error) {
	err = ns.Do(func() error {
		opened, err = op()
		return err
	})
	return opened, err
}

// deadline is when a probe gives up.
func deadline(ctx context.Context) time.Time {
	if d, ok := ctx.Deadline(); ok {
		return d
	}
	return time.Now().Add(defaultWait)
}

// interruptible lets ctx end the blocking calls on c; the returned function
// ends that.
func interruptible(ctx context.Context, c interface{ SetDeadline(time.Time) error }) (stop func() bool, err error) {
	if err := c.SetDeadline(deadline(ctx)); err != nil {
		return nil, err
	}
	return context.AfterFunc(ctx, func() {
		_ = c.SetDeadline(time.Unix(1, 0)) // long ago; fails only if c is closed, which is as good
	}), nil
}

// timedOut says what a missing answer means.
func timedOut(ctx context.Context, err error, dst netip.Addr) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return fmt.Errorf("no answer from %s", dst)
}

// server is a socket with one goroutine that serves it.
type server struct {
	socket io.Closer
	done   chan struct{}
}

// serve runs loop, which has to return when socket is closed.
func serve(socket io.Closer, loop func()) *server {
	s := &server{socket: socket, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		loop()
	}()
	return s
}

// Close ends the server and waits for its goroutine: afterwards no socket keeps
// the namespace alive.
func (s *server) Close() error {
	err := s.socket.Close()
	<-s.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
