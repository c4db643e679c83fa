package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// connectionEvery is the time between an answer and the next question. TCP sends
// again what was lost, so nothing is found by asking more often.
const connectionEvery = 10 * time.Millisecond

// TCPEcho is a TCP server that sends back what it gets.
type TCPEcho struct {
	*server
	Addr netip.AddrPort
}

// ServeTCPEcho starts an echo server in ns. Port 0 of at means any free one. Close
// leaves connections alone, which end with their clients.
func ServeTCPEcho(ns *sandbox.Netns, at netip.AddrPort) (*TCPEcho, error) {
	listener, err := open(ns, func() (*net.TCPListener, error) {
		return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	})
	if err != nil {
		return nil, fmt.Errorf("serve TCP echo on %s in %s: %w", at, ns.Name(), err)
	}
	local, err := netip.ParseAddrPort(listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return &TCPEcho{server: serve(listener, func() { echoAll(listener) }), Addr: local}, nil
}

// echoAll serves all clients at once, until listener is closed.
func echoAll(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		go func() {
			_, _ = io.Copy(conn, conn) // what goes wrong is the client's to notice
			_ = conn.Close()
		}()
	}
}

// Talk is what became of a connection.
type Talk struct {
	Answers int
	Gap     time.Duration // the longest time without an answer
	// Broken is why the connection ended before Stop; else it is nil.
	Broken error
}

// Connection is a TCP connection over which numbered questions go to an echo server,
// and come back.
type Connection struct {
	name string
	conn net.Conn
	quit chan struct{}
	done chan struct{}
	once sync.Once

	mu   sync.Mutex
	talk Talk
	last time.Time // of the last answer
}

// StartConnection connects from ns to an echo server and starts to ask.
func StartConnection(ctx context.Context, ns *sandbox.Netns, dst netip.AddrPort) (*Connection, error) {
	name := fmt.Sprintf("connection from %s to %s", ns.Name(), dst)
	conn, err := open(ns, func() (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", dst.String()) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c := &Connection{name: name, conn: conn, quit: make(chan struct{}), done: make(chan struct{}), last: time.Now()}
	go c.ask()
	return c, nil
}

// ask asks until Stop, or until the connection is broken.
func (c *Connection) ask() {
	defer close(c.done)
	ticker := time.NewTicker(connectionEvery)
	defer ticker.Stop()
	for number := uint64(0); ; number++ {
		select {
		case <-c.quit:
			return
		case <-ticker.C:
		}
		if err := c.exchange(number); err != nil {
			select {
			case <-c.quit: // which closed it
			default:
				c.mu.Lock()
				c.talk.Broken = err
				c.mu.Unlock()
			}
			return
		}
	}
}

func (c *Connection) exchange(number uint64) error {
	var answer [8]byte
	question := binary.BigEndian.AppendUint64(nil, number)
	if _, err := c.conn.Write(question); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.conn, answer[:]); err != nil {
		return err
	}
	if got := binary.BigEndian.Uint64(answer[:]); got != number {
		return fmt.Errorf("the answer to %d is %d", number, got)
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.talk.Answers++
	c.talk.Gap, c.last = max(c.talk.Gap, now.Sub(c.last)), now
	return nil
}

// Answered waits until n more questions than now have been answered: the connection
// is alive.
func (c *Connection) Answered(ctx context.Context, n int) error {
	goal := c.talked().Answers + n
	return Eventually(ctx, func(context.Context) error {
		got := c.talked()
		if got.Answers >= goal {
			return nil
		}
		if got.Broken != nil {
			return fmt.Errorf("%s is broken: %w", c.name, got.Broken)
		}
		return fmt.Errorf("%s: %d of %d questions were answered", c.name, got.Answers, goal)
	})
}

// Broken is why the connection has ended; nil while it is alive.
func (c *Connection) Broken() error { return c.talked().Broken }

func (c *Connection) talked() Talk {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.talk
}

// Stop closes the connection and returns what became of it. It may be called again.
func (c *Connection) Stop() Talk {
	c.once.Do(func() {
		close(c.quit)
		_ = c.conn.Close() // ends a wait for an answer, too
		<-c.done
	})
	return c.talked()
}
