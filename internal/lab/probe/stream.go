package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

const (
	// streamEvery is the time between two packets: short enough that an outage
	// which matters to anybody costs at least one of them.
	streamEvery = 2 * time.Millisecond
	// stragglerTime is how long Stop waits for answers that are still under way:
	// far above a round trip, also where many processes share few cores, so a
	// packet that is later has been lost.
	stragglerTime = 3 * time.Second
)

// Counts is what became of a stream's packets.
type Counts struct {
	Sent       int
	Lost       int           // no answer came
	Duplicated int           // further answers to packets that had one
	Reordered  int           // answers to packets sent before the last one answered
	Gap        time.Duration // the longest time without any answer
}

func (c Counts) String() string {
	return fmt.Sprintf("%d of %d lost", c.Lost, c.Sent)
}

// Stream is a flow of numbered packets to an echo server and back.
type Stream struct {
	name string
	conn *net.UDPConn
	quit chan struct{}
	sent chan struct{} // closed when the last packet is sent
	done chan struct{} // closed when the last answer is counted
	once sync.Once

	mu    sync.Mutex
	tally tally
}

// StartStream starts to send from ns to an echo server.
func StartStream(ns *sandbox.Netns, dst netip.AddrPort) (*Stream, error) {
	name := fmt.Sprintf("stream from %s to %s", ns.Name(), dst)
	conn, err := open(ns, func() (*net.UDPConn, error) {
		return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s := &Stream{name: name, conn: conn, quit: make(chan struct{}), sent: make(chan struct{}), done: make(chan struct{})}
	s.tally.lastAnswer = time.Now()
	go s.send()
	go s.receive()
	return s, nil
}

// send numbers the packets from 0. A packet that can't be sent counts as lost: a
// stream exists to notice that the route was missing for a moment.
func (s *Stream) send() {
	defer close(s.sent)
	ticker := time.NewTicker(streamEvery)
	defer ticker.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-ticker.C:
			s.mu.Lock()
			packet := binary.BigEndian.AppendUint64(nil, s.tally.send())
			s.mu.Unlock()
			_, _ = s.conn.Write(packet)
		}
	}
}

// receive counts the answers until the socket is closed or, after the end of
// the stream, nothing is missing any more or its deadline has passed.
func (s *Stream) receive() {
	defer close(s.done)
	buf := make([]byte, maxDatagram)
	for {
		n, err := s.conn.Read(buf)
		var timeout net.Error
		if errors.Is(err, net.ErrClosed) || errors.As(err, &timeout) && timeout.Timeout() {
			return
		}
		// Other errors are the network's (ICMP: refused, unreachable).
		if err == nil && n == 8 && s.answer(binary.BigEndian.Uint64(buf)) {
			return
		}
	}
}

// answer counts one answer and tells whether it was the last one expected.
func (s *Stream) answer(number uint64) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tally.answer(number, time.Now())
	select {
	case <-s.sent:
		return s.tally.missing() == 0
	default:
		return false
	}
}

// Answered waits until n more packets than now have been answered: the stream
// runs.
func (s *Stream) Answered(ctx context.Context, n int) error {
	goal := s.answered() + n
	return Eventually(ctx, func(context.Context) error {
		if got := s.answered(); got < goal {
			return fmt.Errorf("%s: %d of %d packets were answered", s.name, got, goal)
		}
		return nil
	})
}

func (s *Stream) answered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tally.unique
}

// Stop ends the stream, waits for answers under way and returns what became of
// all packets. It may be called again.
func (s *Stream) Stop() Counts {
	s.once.Do(func() {
		close(s.quit)
		<-s.sent
		s.drain()
		<-s.done
		_ = s.conn.Close() // nothing is left to be lost
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tally.counts()
}

// drain makes receive return: at once if nothing is missing.
func (s *Stream) drain() {
	s.mu.Lock()
	wait := stragglerTime
	if s.tally.missing() == 0 {
		wait = -time.Second
	}
	s.mu.Unlock()
	_ = s.conn.SetReadDeadline(time.Now().Add(wait)) // fails only on a closed socket, which ends receive too
}
