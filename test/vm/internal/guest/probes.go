package guest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlay-cni/overlay-cni/internal/lab/probe"
	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// patience bounds a probe. Emulated machines are slow, more so on a busy host.
// Probes that should fail do so at once.
const patience = 30 * time.Second

// The ports of what Serve starts.
const (
	EchoPort   = 7  // UDP
	MirrorPort = 80 // TCP, and SCTP
	DigestPort = 81 // TCP
)

// Servers says where to start servers for all probes: in a network namespace, on
// each of its addresses. On all at once would not do: an answer by UDP would
// leave from whichever address the kernel prefers.
type Servers struct {
	Netns     string
	Addresses []netip.Addr
}

// Serve starts servers, which stay.
func (s *Service) Serve(where Servers, _ *Nothing) error {
	n, err := netns(where.Netns)
	if err != nil {
		return err
	}
	defer n.Close()
	for _, a := range where.Addresses {
		if _, err := probe.ServeEcho(n, netip.AddrPortFrom(a, EchoPort)); err != nil {
			return err
		}
		if _, err := probe.ServeMirror(n, netip.AddrPortFrom(a, MirrorPort)); err != nil {
			return err
		}
		if err := serveDigest(n, netip.AddrPortFrom(a, DigestPort)); err != nil {
			return err
		}
	}
	return nil
}

// ServeSCTP starts mirrors by SCTP, which stay. The kernels of machines have it;
// that below them need not.
func (s *Service) ServeSCTP(where Servers, _ *Nothing) error {
	n, err := netns(where.Netns)
	if err != nil {
		return err
	}
	defer n.Close()
	for _, a := range where.Addresses {
		if _, err := probe.ServeSCTP(n, netip.AddrPortFrom(a, MirrorPort)); err != nil {
			return err
		}
	}
	return nil
}

// Target is where a probe goes, and from which network namespace.
type Target struct {
	From string
	To   netip.AddrPort // a ping takes the address
	Size int            // bytes: of a packet with its IP header, or of a transfer
}

// probing calls do inside the target's namespace, with bounded time.
func (t Target) probing(do func(context.Context, *sandbox.Netns) error) error {
	n, err := netns(t.From)
	if err != nil {
		return err
	}
	defer n.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return do(ctx, n)
}

// Ping sends an ICMP echo request and tells how long the answer took.
func (s *Service) Ping(t Target, rtt *time.Duration) error {
	return t.probing(func(ctx context.Context, n *sandbox.Netns) (err error) {
		*rtt, err = probe.Ping(ctx, n, t.To.Addr())
		return err
	})
}

// Echo sends a datagram that nobody may fragment, and waits for it to come
// back. The result is how the kernel refused to send it, or "".
func (s *Service) Echo(t Target, refused *string) error {
	return t.probing(func(ctx context.Context, n *sandbox.Netns) error {
		err := probe.Whole(ctx, n, t.To, t.Size)
		if errors.Is(err, unix.EMSGSIZE) {
			*refused, err = err.Error(), nil
		}
		return err
	})
}

// Connect asks a mirror by TCP which source address it sees.
func (s *Service) Connect(t Target, source *netip.Addr) error {
	return t.probing(func(ctx context.Context, n *sandbox.Netns) error {
		seen, err := probe.TCP(ctx, n, t.To)
		*source = seen.Source.Addr().Unmap()
		return err
	})
}

// ConnectSCTP asks a mirror by SCTP which source address it sees.
func (s *Service) ConnectSCTP(t Target, source *netip.Addr) error {
	return t.probing(func(ctx context.Context, n *sandbox.Netns) error {
		seen, err := probe.SCTP(ctx, n, t.To)
		*source = seen.Source.Addr().Unmap()
		return err
	})
}

// Transfer sends bytes by TCP and compares the sum of what arrived.
func (s *Service) Transfer(t Target, took *time.Duration) error {
	return t.probing(func(ctx context.Context, n *sandbox.Netns) error {
		start := time.Now()
		err := transfer(ctx, n, t)
		*took = time.Since(start)
		return err
	})
}

// StartStream starts a flow of packets to an echo server, and waits until it
// flows. Its number is for StopStream.
func (s *Service) StartStream(t Target, number *int) error {
	return t.probing(func(ctx context.Context, n *sandbox.Netns) error {
		stream, err := probe.StartStream(n, t.To)
		if err != nil {
			return err
		}
		*number = s.keep(stream)
		return stream.Answered(ctx, 1)
	})
}

func (s *Service) keep(stream *probe.Stream) (number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams = append(s.streams, stream)
	return len(s.streams) - 1
}

// StopStream ends a stream and tells what became of its packets.
func (s *Service) StopStream(number int, counts *probe.Counts) error {
	s.mu.Lock()
	stream := s.streams[number]
	s.mu.Unlock()
	*counts = stream.Stop()
	return nil
}

// Answer is what an HTTP server said.
type Answer struct {
	Status int
	Text   string
}

// Get asks an HTTP server of the machine itself. Status 0 means that nothing
// listens.
func (s *Service) Get(url string, answer *Answer) error {
	client := http.Client{Timeout: patience}
	r, err := client.Get(url)
	if err != nil {
		*answer = Answer{Text: err.Error()}
		return nil
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	*answer = Answer{r.StatusCode, string(text)}
	return err
}
