package probe

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/overlay-cni/overlay-cni/internal/lab/sandbox"
)

// icmpFamily is what differs between ICMP and ICMPv6.
type icmpFamily struct {
	network, any   string // any: the address to send from
	protocol       int
	request, reply icmp.Type
}

func icmpOf(addr netip.Addr) icmpFamily {
	if addr.Is4() {
		return icmpFamily{"ip4:icmp", "0.0.0.0", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply}
	}
	return icmpFamily{"ip6:ipv6-icmp", "::", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply}
}

// Ping sends one ICMP echo request from ns and returns the time until the reply.
func Ping(ctx context.Context, ns *sandbox.Netns, dst netip.Addr) (time.Duration, error) {
	return PingFrom(ctx, ns, netip.Addr{}, dst)
}

// PingFrom is Ping from one of the addresses that ns has; from the one that the
// kernel chooses if src is not valid.
func PingFrom(ctx context.Context, ns *sandbox.Netns, src, dst netip.Addr) (time.Duration, error) {
	rtt, err := ping(ctx, ns, src, dst)
	if err != nil {
		return 0, fmt.Errorf("ping from %s to %s: %w", ns.Name(), dst, err)
	}
	return rtt, nil
}

func ping(ctx context.Context, ns *sandbox.Netns, src, dst netip.Addr) (time.Duration, error) {
	family := icmpOf(dst)
	if src.IsValid() {
		family.any = src.String()
	}
	conn, err := open(ns, func() (*icmp.PacketConn, error) {
		return icmp.ListenPacket(family.network, family.any)
	})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop, err := interruptible(ctx, conn)
	if err != nil {
		return 0, err
	}
	defer stop()
	rtt, err := family.ask(conn, dst)
	return rtt, timedOut(ctx, err, dst)
}

func (f icmpFamily) ask(conn *icmp.PacketConn, dst netip.Addr) (time.Duration, error) {
	// The raw socket sees every ICMP message of the namespace: the payload
	// tells the replies to this request.
	text := rand.Text()
	request := icmp.Message{Type: f.request, Body: &icmp.Echo{ID: 1, Seq: 1, Data: []byte(text)}}
	packet, err := request.Marshal(nil) // the kernel computes ICMPv6's checksum
	if err != nil {
		return 0, fmt.Errorf("encode the request: %w", err)
	}
	start := time.Now()
	if _, err := conn.WriteTo(packet, &net.IPAddr{IP: dst.AsSlice(), Zone: dst.Zone()}); err != nil {
		return 0, err
	}
	buf := make([]byte, maxDatagram)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		if f.isReply(buf[:n], text) {
			return time.Since(start), nil
		}
	}
}

func (f icmpFamily) isReply(packet []byte, text string) bool {
	msg, err := icmp.ParseMessage(f.protocol, packet)
	if err != nil || msg.Type != f.reply {
		return false
	}
	echo, ok := msg.Body.(*icmp.Echo)
	return ok && string(echo.Data) == text
}
